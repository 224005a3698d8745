"""Exceptions that the command line shows without a traceback."""

from collections.abc import Iterable
from difflib import get_close_matches

MOST_NAMES = 20


class InputError(ValueError):
    """A user's mistake: the message says what was found, what was expected and what to do."""


class BusyError(InputError):
    """Another process writes to the same folder."""


def listed(names: Iterable[object]) -> str:
    """Join names for a message, cut after the first ``MOST_NAMES``."""
    every = [str(name)[:60] for name in names]
    more = f" and {len(every) - MOST_NAMES} more" if len(every) > MOST_NAMES else ""
    return (", ".join(every[:MOST_NAMES]) or "none") + more


def nearest(name: object, known: Iterable[object]) -> str:
    """Advice on a wrong name: the nearest known one, whatever its case, or nothing if none is near."""
    by_name = {str(other).casefold(): other for other in known}
    near = get_close_matches(str(name).casefold(), by_name, 1, cutoff=0.5)
    return f"did you mean {by_name[near[0]]}?" if near else ""


class Stopped(BaseException):
    """Signal ``number`` asked the program to stop. A BaseException, so that no handler takes it for a failure;
    Lightning would turn a KeyboardInterrupt into its own exit."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
