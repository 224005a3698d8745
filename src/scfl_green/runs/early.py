"""Checks of a configuration that take no torch, whose import takes longer than all of them."""

from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from scfl_green.runs.settings import check_plain, check_values


def check_early(cfg: DictConfig) -> None:
    """Raises InputError for wrong values, for files that are missing or lack a column that the configuration names, and
    for hours of carbon intensity that cannot be used.

    Settings of objects that are made with torch, such as the model, are left to ``settings.check``.
    """
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    check_plain(config)
    from scfl_green.data.reading.columns import check_columns  # pandas takes longer than the check above
    from scfl_green.energy.intensity import Intensity
    from scfl_green.runs.newcomer import client_key

    check_values(config)
    columns = config["data"] | {"client_key": client_key(config)}
    Intensity.of(config["carbon"])
    # A partial, so that Hydra does not wrap its InputErrors.
    check_columns(instantiate(cfg.data.source, _partial_=True, _convert_="all")(), columns)
