"""Names and addresses of shared models."""

import os
import re
from typing import NamedTuple

from scfl_green.errors import InputError

# Of models: also a folder's, a repository's and a registered model's name, and never a path.
NAME = re.compile(r"[A-Za-z0-9]+([_-][A-Za-z0-9]+)*")
# A number; or on the Hub, a commit, branch or tag.
VERSION = re.compile(r"[A-Za-z0-9]+([._-][A-Za-z0-9]+)*")
LONGEST = 80
SCHEMES = ("mlflow", "hf")
MODELS = "models"


class Address(NamedTuple):
    """Where a shared model lies: ``TARGET/NAME[@VERSION]``; without a version, the latest."""

    target: str
    name: str
    version: str | None

    def __str__(self) -> str:
        return f"{self.name}@{self.version}" if self.version else self.name


def default_target() -> str:
    """``SCFL_MODELS``, or the folder ``models``."""
    return os.environ.get("SCFL_MODELS") or MODELS


def has_scheme(text: str) -> bool:
    return text.partition(":")[0] in SCHEMES and ":" in text


def parse(text: str, target: str | None = None) -> Address:
    """The address ``NAME[@VERSION]`` in ``target`` (by default, ``default_target``), or ``TARGET/NAME[@VERSION]``.

    Raises InputError for a name or version that could be anything else, such as a path.
    """
    place, slash, last = text.rpartition("/")
    if target is not None and slash:
        raise InputError(f"{_plain(text)}: a name is expected, with letters, digits, - and _; its target is {target}")
    name, found, version = last.partition("@")
    check_name(name)
    if found and not _fits(VERSION, version):
        raise InputError(f"{_plain(last)}: after @, a version is expected, such as {name}@1")
    return Address(target or place or default_target(), name, version or None)


def check_name(name: str) -> None:
    """Raises InputError for what may not be a model's name."""
    if not _fits(NAME, name):
        raise InputError(
            f"{_plain(name)}: no name of a model; up to {LONGEST} letters, digits, - and _ are expected, such as "
            "pancreas-actinn"
        )


def _fits(pattern: re.Pattern[str], text: str) -> bool:
    return len(text) <= LONGEST and pattern.fullmatch(text) is not None


def _plain(text: str) -> str:
    return ascii(text)[:LONGEST]
