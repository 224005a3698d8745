"""The network of a model that training starts from, as overrides. Must not import torch, except for a shared model."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from omegaconf import OmegaConf

from scfl_green.errors import InputError

ABOUT = "model.json"


def network_of(arguments: Sequence[str], choices: Path) -> list[str]:
    """Overrides with the framework and the sizes of the model that ``weights=`` names, unless ``arguments`` choose a
    framework; of the ``choices`` of the group ``model``, the one of the same class.

    Empty if there is no such model or choice: the run then says what is wrong. Only numbers are taken from the model,
    which need not be trusted.
    """
    words = [word for word in arguments if "=" in word and not word.startswith("-")]
    try:
        given = {one.key_or_group: one for one in OverridesParser.create().parse_overrides(words)}
        weights = given["weights"].value()
        network = json.loads((_folder(str(weights)) / ABOUT).read_text())["model"]
        target = network["_target_"]
    except (OverrideParseException, InputError, OSError, KeyError, TypeError, ValueError):
        return []
    known: dict[str, Any] = {
        path.stem: OmegaConf.to_container(OmegaConf.load(path)) for path in sorted(choices.glob("*.yaml"))
    }
    name = next((name for name, settings in known.items() if settings.get("_target_") == target), None)
    if "model" in given or name is None:
        return []
    return [f"model={name}", *(o for o in _sizes(network, known[name]) if o.partition("=")[0] not in given)]


def _folder(weights: str) -> Path:
    if (folder := Path(weights)).is_dir():
        return folder
    from scfl_green.share.find import shared  # needs torch

    return shared(weights) or folder


def _sizes(network: dict[str, Any], default: dict[str, Any]) -> Iterator[str]:
    """Overrides for the numbers of a network that are not the default ones."""
    for key, value in default.items():
        if (own := network.get(key, value)) != value and _numbers(own):
            yield f"model.{key}={json.dumps(own, separators=(',', ':'))}"


def _numbers(value: Any) -> bool:
    return all(isinstance(one, int | float) for one in (value if isinstance(value, list) else [value]))
