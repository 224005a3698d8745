"""Train a single-cell classifier, measure what it emits and score it: python train.py [GROUP=CHOICE] [KEY=VALUE]"""

import errno
import hashlib
import logging
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from scfl_green.errors import InputError, Stopped

# A user's: shown in one line. Anything else is a bug of ours, and shows its traceback.
MISTAKES = (HydraException, OmegaConfBaseException, InputError)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
GOES_ON = "the same command goes on after the last round or epoch that was finished"
# Overrides that say how to fine-tune, and not from what.
OF_FINE_TUNING = ("finetuning.", "weights-", "callbacks-", "budget.", "trainer.max_epochs-", "model.optimizer.lr-")


def run_name(regime: str = "", *, skipped: tuple[str, ...] = (), _root_: DictConfig) -> str:
    """What a run is, as a folder name: its choices and seed, and every value that was overridden.

    ``${run_name:federated}`` names the federated run that such a run would be fine-tuned from. A name that had
    to be shortened or rid of odd characters ends in a hash of the whole.
    """
    hydra_config: Any = _root_.hydra if "hydra" in _root_ else HydraConfig.get()
    choices, overrides = hydra_config.runtime.choices, hydra_config.job.override_dirname.split(";")
    if hydra_config.mode == RunMode.MULTIRUN:
        skipped = ("experiment-",)
    parts = [_root_.data.name, choices.model, choices.opt, regime or choices.regime]
    if newcomers := _root_.split.newcomers:
        parts.append("newcomers-" + (str(newcomers) if isinstance(newcomers, int) else "+".join(map(str, newcomers))))
    parts += [f"s{_root_.seed}", *(o for o in overrides if o and not o.startswith(skipped))]
    whole = "-".join(parts)
    name = re.sub(r"[^A-Za-z0-9._,+-]+", "_", whole)[:120]
    return name if name == whole else f"{name}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


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
OmegaConf.register_new_resolver("federated_run", federated_run)
OmegaConf.register_new_resolver("seeds", lambda n: ",".join(map(str, range(1, n + 1))))
OmegaConf.register_new_resolver("product", lambda a, b: a * b)


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> float | None:
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # torchmetrics imports it, and it tells of its fonts
    from scfl_green.run import run  # torch and Flower take seconds to import: not for --help and --cfg

    try:
        return run(cfg).get(cfg.optimized_metric)
    except MISTAKES as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise  # Hydra goes on with the other jobs, and names this one
        _remove_if_unused(Path(HydraConfig.get().runtime.output_dir))
        sys.exit(one_line(error))
    except OSError as error:
        if error.errno not in NO_ROOM or HydraConfig.get().mode == RunMode.MULTIRUN:
            raise
        sys.exit(f"error: no room to write ({error}); make some, and {GOES_ON}")


def _remove_if_unused(folder: Path) -> None:
    """Hydra has made the folder before anything could be checked."""
    if [path.name for path in folder.iterdir()] == [".hydra"]:
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
        main()
    except MISTAKES as error:
        sys.exit(one_line(error))
    except Stopped as stopped:
        print(f"stopped: {GOES_ON}", file=sys.stderr)
        sys.exit(128 + stopped.number)
