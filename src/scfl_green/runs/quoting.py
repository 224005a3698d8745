"""Values of the command line that Hydra would misread, in the quotes that keep them what they are."""

import re
import shlex

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

# Settings that hold names: a donor 10_1 is not the number 101.
LISTS = ("split.test", "split.newcomers", "data.drop_types", "data.drop_clients", "data.label_key", "data.path")
NAME = "finetuning.client"
IN_BRACKETS = re.compile(r"\[([^\]\[]*)\]")
# Needs no quotes.
PLAIN = re.compile(r"(?!(true|false|null|nan|inf)$)[a-z_/.][\w./*?+: -]*", re.I | re.A)
NUMBER = re.compile(r"[\d_.e+-]*\d[\d_.e+-]*", re.I)


def quoted(argument: str) -> str:
    """An argument of Hydra's as it is, but with quotes around names in lists, and around a value that does not parse
    without, such as a path with = or ~ in it."""
    key, equals, value = argument.partition("=")
    if not equals or key.startswith("-") or re.search("[\"']|\\$\\{", value):
        return _one_value(argument)
    if key in LISTS and value.startswith("["):
        return _if_parsed(f"{key}={IN_BRACKETS.sub(lambda names: _list(names[1]), value)}", argument)
    if key == NAME:
        return f"{key}={','.join(_in_quotes(name) if NUMBER.fullmatch(name) else name for name in value.split(','))}"
    return _one_value(argument)


def to_type(argument: str) -> str:
    """What to type in a shell so that the value of an argument is one text, or, of a list, so is each of its items."""
    key, _, value = argument.partition("=")
    if value.startswith("["):
        items = ",".join(_in_quotes(item.strip()) for item in value.strip("[]").split(","))
        return shlex.quote(f"{key}=[{items}]")
    return shlex.quote(f"{key}={_in_quotes(value)}")


def _one_value(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if not equals or key.startswith("-") or value[:1] in ("[", "{") or _parses(argument):
        return argument
    return _if_parsed(f"{key}={_in_quotes(value)}", argument)


def _list(names: str) -> str:
    items = [name.strip() for name in names.split(",") if name.strip()]
    return f"[{','.join(name if PLAIN.fullmatch(name) else _in_quotes(name) for name in items)}]"


def _in_quotes(text: str) -> str:
    escaped = re.sub(r'(\\*)("|$)', lambda end: 2 * end[1] + (r"\"" if end[2] else ""), text)
    return f'"{escaped}"'


def _if_parsed(argument: str, otherwise: str) -> str:
    return argument if _parses(argument) else otherwise


def _parses(argument: str) -> bool:
    try:
        OverridesParser.create().parse_overrides([argument])
    except HydraException:
        return False
    return True
