"""Finds what a sweep varied, from the overrides that Hydra keeps in each run's folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from scfl_green.security.confidential import shown

# These have columns in every record, or change no result.
OF_RECORD = ("data", "model", "opt", "regime", "split", "seed")
INCIDENTAL = ("seeds", "max_seeds", "name", "logger", "launcher", "trusted", "optimized_metric", "weights", "local")
INCIDENTAL_GROUPS = ("paths", "report", "hydra", "logger", "launcher")


def varied_settings(folders: Sequence[Path]) -> dict[str, list[str]]:
    """Every setting that differs among these runs, by its key, with the value in each of them.

    What a run does not override is read from its configuration. Of paths, a hash stands in their place.
    """
    given = [overrides(folder) for folder in folders]
    keys = sorted({key for of_run in given for key in of_run if _counts(key)})
    found = {}
    for key in keys:
        values = [
            of_run[key] if key in of_run else _configured(folder, key)
            for folder, of_run in zip(folders, given, strict=True)
        ]
        if len(set(values)) > 1:
            found[key] = [shown(f"{key}={value}").partition("=")[2] for value in values]
    return found


def overrides(folder: Path) -> dict[str, str]:
    """What a run's command line set, by key; empty where Hydra has left nothing that can be read."""
    parsed = OverridesParser.create().parse_overrides(_read(folder / ".hydra/overrides.yaml") or [])
    return {o.key_or_group: _plain(o.value()) if not o.is_delete() else "none" for o in parsed}


def _counts(key: str) -> bool:
    return key not in (*OF_RECORD, *INCIDENTAL) and key.partition(".")[0].partition("/")[0] not in INCIDENTAL_GROUPS


def _configured(folder: Path, key: str) -> str:
    """The value of a setting, or the choice of a group, that a run was left with."""
    hydra = _read(folder / ".hydra/hydra.yaml") or {}
    choices = hydra.get("hydra", {}).get("runtime", {}).get("choices", {})
    if key in choices:
        return _plain(choices[key])
    node: Any = _read(folder / ".hydra/config.yaml") or {}
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return _plain(node)


def _plain(value: Any) -> str:
    """A value as it is typed, one spelling for equal numbers."""
    if isinstance(value, bool) or value is None:
        return str(value).lower().replace("none", "null")
    if isinstance(value, int | float):
        return f"{value:.10g}"
    return str(value).strip("'\"")


def _read(path: Path) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (OSError, YAMLError, OmegaConfBaseException):
        return None
