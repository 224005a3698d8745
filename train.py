"""Train a single-cell classifier, measure what it emits and score it: python train.py [GROUP=CHOICE] [KEY=VALUE]"""

import sys

from scfl_green.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
