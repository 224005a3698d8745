"""Limits what a received model, run folder or message may name in ``_target_``.

What users type or keep in their own configurations is their own code and is not checked.
"""

import importlib
import inspect
import re
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

from scfl_green.errors import InputError

# Our packages, whose exports (``__all__``) may be named: scfl_green.models.ACTINN.
PACKAGES = tuple(
    f"scfl_green.{name}"
    for name in ("data", "federated", "models", "runs", "sites.deployed", "training", "training.dp")
)
# Other libraries: classes that are one of these or below one. No functions, since some read files or start processes.
LIBRARIES = (
    "flwr.serverapp.strategy",
    "pytorch_lightning.Trainer",
    "pytorch_lightning.trainer.trainer.Trainer",
    "pytorch_lightning.callbacks",
    "pytorch_lightning.loggers",
    "pytorch_lightning.profilers",
    "torch.optim",
    "torchmetrics.classification",
)
# Public ASCII names: no look-alikes from other alphabets, no relative and no private names.
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)*")


def check(config: Any, trusted: Sequence[str] = (), *, where: str = "") -> None:
    """InputError if any ``_target_`` in a resolved configuration is not below an allowed or ``trusted`` name.

    It must also be a class or function defined below such a name, not one that a module only imports. ``where`` is
    the key of ``config``.
    """
    prefixes = _prefixes(trusted)
    for path, name in _targets(config):
        key = ".".join((where, *path) if where else path)
        _check_name(key, name, prefixes)
        _check_object(key, name, prefixes)


def _targets(config: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every ``_target_`` at any depth, with the keys that lead to it."""
    if isinstance(config, dict | list | tuple):
        for key, below in config.items() if isinstance(config, dict) else enumerate(config):
            if key == "_target_":
                yield (key,), below
            for path, name in _targets(below):
                yield (str(key), *path), name


def _prefixes(trusted: Sequence[str]) -> tuple[str, ...]:
    if isinstance(trusted, str) or not all(isinstance(name, str) and NAME.fullmatch(name) for name in trusted):
        raise InputError("trusted: a list of modules or names is expected, such as trusted=[my_lab.models]")
    return tuple(trusted)


def _check_name(key: str, name: Any, trusted: tuple[str, ...]) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InputError(f"{key}={_short(name)}: the dotted name of a public class or function is expected")
    if not _exported(name) and not _below(name, LIBRARIES + trusted):
        raise InputError(
            f"{key}={_short(name)}: not among the names a received file may use (scfl_green/security/targets.py); "
            "if you trust this code, add its module: trusted=[MODULE]"
        )


def _check_object(key: str, name: str, trusted: tuple[str, ...]) -> None:
    place, _, last = name.rpartition(".")
    try:
        module = _find(place)
        found = getattr(module, last)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{key}={_short(name)}: no such class or function; correct the name") from error
    home = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    ours = trusted + (PACKAGES if _exported(name) else ())
    own = isinstance(module, ModuleType) and module.__name__ == place and _below(home, ours + LIBRARIES)
    if not own or not (inspect.isclass(found) or (inspect.isfunction(found) and _below(home, ours))):
        raise InputError(f"{key}={_short(name)}: not a configurable class or function defined in {_short(place)}")


def _exported(name: str) -> bool:
    package, _, last = name.rpartition(".")
    return package in PACKAGES and last in importlib.import_module(package).__all__


def _find(name: str) -> Any:
    """Find an object as Hydra does: attributes first, then modules."""
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
