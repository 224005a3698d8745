"""``python -m scfl_green COMMAND ...``"""

from scfl_green.cli import main

if __name__ == "__main__":
    main()
