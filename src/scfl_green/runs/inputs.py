"""Inputs of a run, checked before anything is read."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from scfl_green.runs import settings
from scfl_green.runs.newcomer import check_new
from scfl_green.share.find import shared
from scfl_green.training.trained_model import TrainedModel

LOG = logging.getLogger(__name__)
# Settings that cannot change a result; paths stay on this machine.
INCIDENTAL = ("paths", "logger", "name", "seeds", "max_seeds", "report", "optimized_metric", "trusted")
UNTOLD = "a shared model does not tell what it was trained on; on cells that it has seen, scores would be too high"


@dataclass(frozen=True)
class Inputs:
    """Inputs of a run: its configuration, the same as plain values, the files of its cells, a model to start from."""

    cfg: DictConfig
    config: dict[str, Any]
    paths: Sequence[Path]
    start: TrainedModel | None


def checked(cfg: DictConfig) -> Inputs:
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    settings.check(config)
    start = None
    if cfg.weights is not None:
        start = TrainedModel.load(str(shared(cfg.weights, cfg.trusted) or cfg.weights), cfg.trusted)
    if start is not None and not start.seen.told:
        LOG.info("weights=%s: %s", cfg.weights, UNTOLD)
    # A partial, so that Hydra does not wrap its InputErrors.
    paths: list[Path] = instantiate(cfg.data.source, _partial_=True, _convert_="all")()
    check_new(config, start.seen if start else None, paths)
    told = {key: value for key, value in config.items() if key not in INCIDENTAL}
    # How the sites are reached changes nothing either.
    told["sites"] = {key: value for key, value in config["sites"].items() if key in ("_target_", "names")}
    return Inputs(cfg, told, paths, start)
