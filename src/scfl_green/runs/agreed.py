"""What the sites of a federation are told, and how their data are prepared."""

from importlib.metadata import version
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from scfl_green.data.dataset import AskSites, Recipe

# What the sites of a federation are told.
FOR_SITES = (
    "seed",
    "threads",
    "model",
    "trainer",
    "split",
    "privacy",
    "prune",
    "budget",
    "end",
    "callbacks",
    "federation",
)


def recipe(cfg: DictConfig, ask: AskSites) -> Recipe:
    """How a run prepares its data, and what it tells its sites."""
    return Recipe(instantiate(cfg.genes), cfg.data.standardise, preprocesses(cfg), ask, for_sites(cfg))


def for_sites(cfg: DictConfig) -> dict[str, Any]:
    """The settings that a site of a federation needs to know; they decide what it computes."""
    config: dict[str, Any] = {
        key: OmegaConf.to_container(cfg[key], resolve=True) if OmegaConf.is_config(cfg[key]) else cfg[key]
        for key in FOR_SITES
        if key in cfg  # runs of earlier versions have fewer settings
    }
    data = {key: cfg.data[key] for key in ("preprocess", "batch_size")}
    return config | {"data": data, "version": version("scfl-green")}


def preprocesses(cfg: DictConfig) -> bool:
    return cfg.data.preprocess != "none"
