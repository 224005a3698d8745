"""The one exception that the command line shows without a traceback."""


class InputError(ValueError):
    """A user's mistake: the message says what was found, what was expected and what to do."""
