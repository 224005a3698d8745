"""What Hydra has composed, checked before Hydra or anything else acts on it or writes it down."""

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from scfl_green.errors import InputError
from scfl_green.security import confidential, targets
from scfl_green.security.targets import Entry

# Hydra acts on these before any of our code runs.
ACTED_ON = ("hydra.callbacks", "hydra.launcher", "hydra.sweeper", "hydra.job_logging", "hydra.hydra_logging")
SET_BY_HYDRA = "hydra.job.env_set"
REPEATING = ("hydra", "logger", "paths")
DEEPEST = 40


def guard(cfg: DictConfig) -> None:
    """InputError where a composed configuration names code that it may not, or holds what looks like a secret.

    Names are not imported here: ``targets.check`` does so when a run is about to use them. An interpolation that
    cannot be resolved yet is an error only where Hydra acts on it.
    """
    given = cfg.get("trusted") or ()
    trusted: Any = OmegaConf.to_container(given, resolve=True) if OmegaConf.is_config(given) else given
    # Last those that only repeat what another key says.
    for path, value in sorted(_entries(cfg, ()), key=lambda entry: entry[0][0] in REPEATING):
        confidential.refuse_secret(".".join(path), value)
        if path[0] == "hydra":
            targets.check_of_hydra((path, value), trusted)
        elif path[-1] == "_target_":
            targets.check({"_target_": value}, trusted, where=".".join(path[:-1]), resolve=False)


def _entries(node: Any, path: tuple[str, ...]) -> Iterator[Entry]:
    if len(path) > DEEPEST:
        raise InputError(f"{'.'.join(path[:6])}...: the configuration refers to itself")
    for key in list(node.keys()) if isinstance(node, DictConfig) else range(len(node)):
        below = (*path, str(key))
        try:
            value = node[key]
        except OmegaConfBaseException as error:
            if ".".join(below).startswith((*ACTED_ON, SET_BY_HYDRA)) and not OmegaConf.is_missing(node, key):
                raise InputError(f"{'.'.join(below)}: it cannot be resolved: {error}") from None
            continue
        if isinstance(value, dict | list | tuple):  # what a resolver made
            value = OmegaConf.create(value, parent=node)
        if OmegaConf.is_config(value):
            yield from _entries(value, below)
        else:
            yield below, value
