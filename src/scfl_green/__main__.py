"""``python -m scfl_green VERB ...``"""

from scfl_green.cli import main

if __name__ == "__main__":
    main()
