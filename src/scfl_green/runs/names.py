"""What runs are called: by what they are, and not by when they ran. Needs no torch, since ``--help`` does not."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from scfl_green.security.confidential import short_hash, shown

# Overrides that say how to fine-tune, and not from what.
UNNAMED = "default"
# Overrides that do not change what a sweep computes, or are in its name already.
INCIDENTAL = ("data", "data.like", "data.name", "seed", "seeds", "name", "logger", "launcher", "trusted")
OF_FINE_TUNING = ("finetuning.", "weights-", "callbacks-", "budget.", "trainer.max_epochs-", "model.optimizer.lr-")


def register_resolvers() -> None:
    """What the configuration interpolates beside OmegaConf's own and Hydra's."""
    register = partial(OmegaConf.register_new_resolver, replace=True)
    register("run_name", run_name)
    register("public_name", partial(run_name, people=False))
    register("federated_run", federated_run)
    # Kept, since a job of a sweep knows its own overrides alone.
    register("sweep_name", sweep_name, use_cache=True)
    register("seeds", lambda n: ",".join(map(str, range(1, n + 1))))
    register("product", lambda a, b: a * b)


def run_name(regime: str = "", *, skipped: tuple[str, ...] = (), people: bool = True, _root_: DictConfig) -> str:
    """What a run is, as a folder name: its choices and seed, and every value that was overridden; of a path, a hash.

    ``${run_name:federated}`` names the federated run that such a run would be fine-tuned from. A name that had
    to be shortened or rid of odd characters ends in a hash of the whole. ``${public_name:}`` is the same without
    ``people``: hashes also where clients, donors or columns would be named.
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
    """The folder of the federated run that a run would be fine-tuned from: of the same sweep, if it is one; else of
    the same overrides, or of those of them that are not about fine-tuning."""
    if (hydra := hydra_node(_root_)).mode == RunMode.MULTIRUN:
        return f"{hydra.sweep.dir}/{run_name('federated', _root_=_root_)}"
    names = [run_name("federated", skipped=skipped, _root_=_root_) for skipped in (OF_FINE_TUNING[:2], OF_FINE_TUNING)]
    folders = [Path(_root_.paths.logs) / "runs" / name for name in names]
    return str(next((folder for folder in folders if (folder / "result.json").exists()), folders[-1]))


def hydra_node(root: DictConfig | None = None) -> Any:
    """Hydra's own node: of ``root`` while it is composed, else of the job that is run, from which it is taken out."""
    return root.hydra if root is not None and "hydra" in root else HydraConfig.get()
