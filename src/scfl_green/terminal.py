"""Tables and paragraphs as plain text, for the terminal and the log file, no wider than the terminal."""

from collections.abc import Sequence
from textwrap import fill

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text


def terminal_width() -> int:
    """In columns; 80 where there is no terminal, and what ``COLUMNS`` says."""
    return Console().width


def wrapped(text: str) -> str:
    """A paragraph, broken between words."""
    return fill(text, terminal_width(), break_long_words=False, break_on_hyphens=False)


def shortened(name: str, width: int) -> str:
    """A name in at most ``width`` letters, without its middle: long names often differ at their ends."""
    head = (width - 1) // 2
    return name if len(name) <= width else f"{name[:head]}…{name[len(name) - (width - 1 - head) :]}"


def room(label_width: int, n_columns: int, width: int) -> int:
    """The width left for each of equal columns of numbers beside the names of the rows."""
    return (width - 2 - label_width) // max(n_columns, 1) - 1


def drawn(heads: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "", caption: str = "") -> str:
    """A table whose first column names its rows; the others hold numbers, which are shown whole.

    Names are shortened to fit, never wrapped; ``heads`` must leave the numbers room.
    """
    table = Table(title=Text(title), caption=Text(caption), box=SIMPLE_HEAD, padding=0, pad_edge=False)
    widths = [max(len(heads[i]), *(len(row[i]) for row in rows)) for i in range(1, len(heads))]
    left = max(1, terminal_width() - 2 - sum(width + 1 for width in widths))
    table.add_column(Text(heads[0]), no_wrap=True)
    for head, width in zip(heads[1:], widths, strict=True):
        table.add_column(Text(head), justify="right", no_wrap=True, width=width)
    for name, *numbers in rows:
        table.add_row(Text(shortened(name, left)), *map(Text, numbers))
    # Without colours, so that the log file can hold it.
    console = Console(color_system=None)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines()).strip("\n")
