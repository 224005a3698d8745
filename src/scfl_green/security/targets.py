"""What a received thing may name in ``_target_``: a pulled model, a run's folder of somebody else, a message.

What a user types, or has in configurations of his own, is his own code and not looked at.
"""

import importlib
import inspect
import re
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from scfl_green.errors import InputError

# Rooms, of which may be named what their packages export (``__all__``): scfl_green.models.ACTINN.
ROOMS = tuple(f"scfl_green.{room}" for room in ("data", "federated", "models", "runs", "training", "training.dp"))
# Of other libraries: what is one of these or below one, and a class, since there are functions everywhere that read
# files or start processes.
THEIRS = (
    "flwr.serverapp.strategy",
    "pytorch_lightning.Trainer",
    "pytorch_lightning.trainer.trainer.Trainer",
    "pytorch_lightning.callbacks",
    "pytorch_lightning.loggers",
    "pytorch_lightning.profilers",
    "torch.optim",
    "torchmetrics.classification",
)
# Public names of plain ASCII: look-alikes of other alphabets, relative and private names are none.
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)*")


def check(config: Any, trusted: Sequence[str] = (), *, where: str = "") -> None:
    """InputError where a ``_target_`` anywhere in a resolved configuration is not below what is allowed or ``trusted``.

    It must also be a class or function of the very module that is named, defined below what is allowed: what a module
    has only imported is refused. ``where`` is the key of ``config``.
    """
    prefixes = _prefixes(trusted)
    for path, name in _named(config):
        key = ".".join((where, *path) if where else path)
        _check_name(key, name, prefixes)
        _check_object(key, name, prefixes)


def _named(config: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every ``_target_`` at any depth, with the keys that lead to it."""
    if isinstance(config, dict | list | tuple):
        for key, below in config.items() if isinstance(config, dict) else enumerate(config):
            if key == "_target_":
                yield (key,), below
            for path, name in _named(below):
                yield (str(key), *path), name


def _prefixes(trusted: Sequence[str]) -> tuple[str, ...]:
    if isinstance(trusted, str) or not all(isinstance(name, str) and NAME.fullmatch(name) for name in trusted):
        raise InputError("trusted: a list of modules or names is expected, such as trusted=[my_lab.models]")
    return tuple(trusted)


def _check_name(key: str, name: Any, trusted: tuple[str, ...]) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InputError(f"{key}={_short(name)}: the dotted name of a public class or function is expected")
    if not _exported(name) and not _below(name, THEIRS + trusted):
        raise InputError(
            f"{key}={_short(name)}: not among what a received file may name (scfl_green/security/targets.py); "
            "if you know that code and trust it, add its module: trusted=[MODULE]"
        )


def _check_object(key: str, name: str, trusted: tuple[str, ...]) -> None:
    place, _, last = name.rpartition(".")
    try:
        module = _find(place)
        found = getattr(module, last)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{key}={_short(name)}: there is no such class or function") from error
    home = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    ours = trusted + (ROOMS if _exported(name) else ())
    own = isinstance(module, ModuleType) and module.__name__ == place and _below(home, ours + THEIRS)
    if not own or not (inspect.isclass(found) or (inspect.isfunction(found) and _below(home, ours))):
        raise InputError(f"{key}={_short(name)}: no class or function that {_short(place)} defines to be configured")


def _exported(name: str) -> bool:
    room, _, last = name.rpartition(".")
    return room in ROOMS and last in importlib.import_module(room).__all__


def _find(name: str) -> Any:
    """As Hydra finds it: attributes first, then modules."""
    first, *rest = name.split(".")
    found, so_far = importlib.import_module(first), first
    for part in rest:
        so_far = f"{so_far}.{part}"
        if not hasattr(found, part):
            importlib.import_module(so_far)
        found = getattr(found, part)
    return found


def _below(name: str, prefixes: Sequence[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _short(value: Any) -> str:
    return str(value)[:80] if isinstance(value, str) and value.isascii() and value.isprintable() else ascii(value)[:80]
