"""Train a single-cell classifier, measure what it emits and score it: python train.py [GROUP=CHOICE] [KEY=VALUE]"""

import copy
import errno
import logging
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from scfl_green.errors import BusyError, InputError, Stopped
from scfl_green.security.confidential import refuse_secret_arguments, short_hash, shown
from scfl_green.security.guard import guard
from scfl_green.security.targets import OUTPUT

# A user's: shown in one line. Anything else is a bug of ours, and shows its traceback.
MISTAKES = (HydraException, OmegaConfBaseException, InputError)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
GOES_ON = "the same command goes on after the last round or epoch that was finished"
RERUN = "--experimental-rerun"
# Overrides that say how to fine-tune, and not from what.
OF_FINE_TUNING = ("finetuning.", "weights-", "callbacks-", "budget.", "trainer.max_epochs-", "model.optimizer.lr-")


def run_name(regime: str = "", *, skipped: tuple[str, ...] = (), people: bool = True, _root_: DictConfig) -> str:
    """What a run is, as a folder name: its choices and seed, and every value that was overridden; of a path, a hash.

    ``${run_name:federated}`` names the federated run that such a run would be fine-tuned from. A name that had
    to be shortened or rid of odd characters ends in a hash of the whole. ``${public_name:}`` is the same without
    ``people``: hashes also where clients, donors or columns would be named.
    """
    hydra_config: Any = _root_.hydra if "hydra" in _root_ else HydraConfig.get()
    job: Any = OmegaConf.to_container(hydra_config.job, resolve=False)
    choices, overrides = hydra_config.runtime.choices, job["override_dirname"].split(";")
    if hydra_config.mode == RunMode.MULTIRUN:
        skipped = ("experiment-",)
    parts = [_root_.data.name, choices.model, choices.opt, regime or choices.regime]
    if newcomers := _root_.split.newcomers:
        named = str(newcomers) if isinstance(newcomers, int) else "+".join(map(str, newcomers))
        parts.append("newcomers-" + (named if people or isinstance(newcomers, int) else short_hash(named)))
    kept = [override for override in overrides if override and not override.startswith(skipped)]
    parts += [f"s{_root_.seed}", *(shown(override, "-", people=people) for override in kept)]
    whole = "-".join(parts)
    name = re.sub(r"[^A-Za-z0-9._,+-]+", "_", whole)[:120]
    return name if name == whole else f"{name}-{short_hash(whole)}"


def federated_run(*, _root_: DictConfig) -> str:
    """The folder of the federated run that a run would be fine-tuned from: of the same sweep, if it is one; else of
    the same overrides, or of those of them that are not about fine-tuning."""
    hydra_config: Any = _root_.hydra if "hydra" in _root_ else HydraConfig.get()
    if hydra_config.mode == RunMode.MULTIRUN:
        return f"{hydra_config.sweep.dir}/{run_name('federated', _root_=_root_)}"
    names = [run_name("federated", skipped=skipped, _root_=_root_) for skipped in (OF_FINE_TUNING[:2], OF_FINE_TUNING)]
    folders = [Path(_root_.paths.logs) / "runs" / name for name in names]
    return str(next((folder for folder in folders if (folder / "result.json").exists()), folders[-1]))


OmegaConf.register_new_resolver("run_name", run_name)
OmegaConf.register_new_resolver("public_name", partial(run_name, people=False))
OmegaConf.register_new_resolver("federated_run", federated_run)
OmegaConf.register_new_resolver("seeds", lambda n: ",".join(map(str, range(1, n + 1))))
OmegaConf.register_new_resolver("product", lambda a, b: a * b)


def guarded(load: Callable[..., DictConfig]) -> Callable[..., DictConfig]:
    """Hydra makes callbacks, launchers and loggers as soon as it has composed a configuration, and has no hook before:
    every one is composed by this method, those of the jobs of a sweep too."""

    @wraps(load)
    def load_and_check(*args: Any, **kwargs: Any) -> DictConfig:
        cfg = load(*args, **kwargs)
        checked = copy.deepcopy(cfg)
        with open_dict(checked.hydra):
            # Not known yet; they stand in the names of files and folders.
            checked.hydra.runtime.output_dir = OUTPUT
            checked.hydra.job.id = checked.hydra.job.num = "0"
        of_hydra: Any = HydraConfig.instance()
        before, of_hydra.cfg = of_hydra.cfg, checked
        try:
            guard(checked)
        finally:
            of_hydra.cfg = before
        return cfg

    return load_and_check


setattr(ConfigLoaderImpl, "load_configuration", guarded(ConfigLoaderImpl.load_configuration))  # noqa: B010  # a method


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> float | None:
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # torchmetrics imports it, and it tells of its fonts
    # torch and Flower take seconds to import: not for --help and --cfg, and beside what takes as long
    from scfl_green.energy.hardware import look_up

    look_up(cfg.carbon.country, cfg.carbon.cpu_watts, cfg.carbon.ram_watts)
    from scfl_green.runs.run import run

    try:
        return run(cfg).get(cfg.optimized_metric)
    except MISTAKES as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise  # Hydra goes on with the other jobs, and names this one
        if not isinstance(error, BusyError):
            _remove_if_unused(Path(HydraConfig.get().runtime.output_dir))
        sys.exit(one_line(error))
    except OSError as error:
        if error.errno not in NO_ROOM or HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        sys.exit(f"error: no room to write ({error}); make some, and {GOES_ON}")


def _remove_if_unused(folder: Path) -> None:
    """Hydra has made the folder before anything could be checked."""
    if {path.name for path in folder.iterdir()} <= {".hydra", "train.log"}:
        shutil.rmtree(folder)
        for parent in list(folder.parents)[:2]:
            if not any(parent.iterdir()):
                parent.rmdir()


def one_line(error: Exception) -> str:
    return "error: " + " ".join(str(error).split("Config search path")[0].split())


def stop(number: int, _: object) -> None:
    """Ends the run where it is; the second time, at once."""
    signal.signal(number, signal.SIG_DFL)
    raise Stopped(number)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    # Hydra would print its errors over several lines, and tracebacks of ours.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        refuse_secret_arguments(sys.argv[1:])
        if any(word.startswith("--e") and RERUN.startswith(word.split("=")[0]) for word in sys.argv[1:]):
            raise InputError(f"{RERUN} would read a pickle, which can run code; give the overrides again")
        main()
    except MISTAKES as error:
        sys.exit(one_line(error))
    except Stopped as stopped:
        print(f"stopped: {GOES_ON}", file=sys.stderr)
        sys.exit(128 + stopped.number)
