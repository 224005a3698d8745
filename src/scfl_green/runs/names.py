"""Names of runs, made from their settings, not from the time. Must not import torch, which ``--help`` does without."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from scfl_green.errors import InputError
from scfl_green.security.confidential import short_hash, shown

# The name of a sweep that nobody has named.
UNNAMED = "default"
# Overrides that do not change what a sweep computes, or are in its name already.
INCIDENTAL = ("data", "data.like", "data.name", "seed", "seeds", "max_seeds", "name", "logger", "launcher", "trusted")
# Overrides that affect fine-tuning, not the run that it starts from.
FINE_TUNING = ("finetuning.", "weights-", "callbacks-", "budget.", "trainer.max_epochs-", "model.optimizer.lr-")


def register_resolvers() -> None:
    """Register the interpolations of the configuration, such as ``${run_name:}``."""
    register = partial(OmegaConf.register_new_resolver, replace=True)
    register("run_name", run_name)
    register("public_name", partial(run_name, people=False))
    register("federated_run", federated_run)
    # Kept, since a job of a sweep knows its own overrides alone.
    register("sweep_name", sweep_name, use_cache=True)
    register("seeds", lambda n: ",".join(map(str, range(1, n + 1))) if isinstance(n, int) else n)
    register("product", lambda a, b: a * b)
    register("quotient", lambda a, b: a // b)


def run_name(regime: str = "", *, skipped: tuple[str, ...] = (), people: bool = True, _root_: DictConfig) -> str:
    """The folder name of a run: its choices, its seed and every overridden value; paths are hashed.

    ``${run_name:federated}`` is the name of the federated run that this run would start fine-tuning from. A name that
    was shortened or had special characters ends in a hash of the whole. ``${public_name:}`` is the same without
    ``people``: clients, donors and columns are hashed too.
    """
    hydra = hydra_node(_root_)
    job: Any = OmegaConf.to_container(hydra.job, resolve=False)
    choices, overrides = hydra.runtime.choices, job["override_dirname"].split(";")
    if hydra.mode == RunMode.MULTIRUN:
        skipped = ("experiment-",)
    parts = [_root_.data.name, choices.model, choices.opt, regime or choices.regime]
    if newcomers := _root_.split.newcomers:
        named = str(newcomers) if isinstance(newcomers, int) else "+".join(map(str, newcomers))
        parts.append("newcomers-" + (named if people or isinstance(newcomers, int) else short_hash(named)))
    kept = [override for override in overrides if override and not override.startswith(skipped)]
    parts += [f"s{_root_.seed}", *(shown(override, "-", people=people) for override in kept)]
    return _folder_name("-".join(parts))


def sweep_name(name: str, data: str, overrides: Sequence[str]) -> str:
    """The folder of a sweep: its name if it has one, else its dataset, the keys that it varies, and what it fixes."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    varied = {o.key_or_group for o in parsed if o.is_sweep_override()}
    varied = varied - {"seed"} or varied  # more seeds make no other sweep
    if name != UNNAMED or not varied:
        return name
    plain = [o for o in parsed if not o.is_sweep_override() and not o.key_or_group.startswith("paths.")]
    fixed = sorted(shown(str(o.input_line)).replace("=", "-", 1) for o in plain if o.key_or_group not in INCIDENTAL)
    return _folder_name("-".join([*([] if "data" in varied else [data]), "+".join(sorted(varied)), *fixed]))


def _folder_name(whole: str) -> str:
    """A text as the name of a folder: with a hash of the whole where it had to be shortened or rid of characters."""
    name = re.sub(r"[^A-Za-z0-9._,+-]+", "_", whole)[:120]
    return name if name == whole else f"{name}-{short_hash(whole)}"


def federated_run(*, _root_: DictConfig) -> str:
    """The folder of the federated run to fine-tune from: in the same sweep, if this is one; else with the same
    overrides, or with those that do not concern fine-tuning."""
    if (hydra := hydra_node(_root_)).mode == RunMode.MULTIRUN:
        return f"{hydra.sweep.dir}/{run_name('federated', _root_=_root_)}"
    names = [run_name("federated", skipped=skipped, _root_=_root_) for skipped in (FINE_TUNING[:2], FINE_TUNING)]
    folders = [Path(_root_.paths.logs) / "runs" / name for name in names]
    return str(next((folder for folder in folders if (folder / "result.json").exists()), folders[-1]))


def hydra_node(root: DictConfig | None = None) -> Any:
    """Hydra's own node: of ``root`` during composition, else of the running job, whose configuration lacks it."""
    return root.hydra if root is not None and "hydra" in root else HydraConfig.get()


def check_sizes_of_opt(hydra: Any) -> None:
    """InputError where an opt has sizes for other frameworks and none for this one, which would train unchanged."""
    choices = hydra.runtime.choices
    folders = [Path(source.path) / "sizes" for source in hydra.runtime.config_sources if source.schema == "file"]
    reduces = any((folder / choices.opt).is_dir() for folder in folders)
    sizes = f"{choices.opt}/{choices.model}.yaml"
    if reduces and not any((folder / sizes).is_file() for folder in folders):
        raise InputError(
            f"opt={choices.opt}: it has no sizes for model={choices.model}, which would train as the baseline does; "
            f"add sizes/{sizes} to your configurations, or set model.width with opt=baseline"
        )
