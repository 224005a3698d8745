"""Train a single-cell classifier, measure what it emits and score it: python train.py [GROUP=CHOICE] [KEY=VALUE]"""

import sys

from scfl_green.cli import in_utf8, main

if __name__ == "__main__":
    in_utf8()
    main(["train", *sys.argv[1:]])
