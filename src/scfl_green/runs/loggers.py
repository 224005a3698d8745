"""Loggers of a run: Lightning's own, all told the same, and Weights & Biases without what it would tell by itself."""

import logging
import netrc
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from inspect import isclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pandas as pd
from hydra.utils import get_object
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from scfl_green.errors import InputError
from scfl_green.runs.wandb_results import log_results
from scfl_green.security.confidential import public

LOG = logging.getLogger(__name__)
# MLflow sends usage data to its authors, unless this is set before it is imported.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Optional packages, any of which the logger needs.
PACKAGES = {TensorBoardLogger: ("tensorboard", "tensorboardX"), MLFlowLogger: ("mlflow",)}


def check_installed(loggers: Mapping[str, Any]) -> None:
    """InputError if the package of a configured logger is missing, since it would be imported only after the data."""
    for name, settings in loggers.items():
        target = get_object(settings["_target_"])
        for kind, packages in PACKAGES.items():
            if isclass(target) and issubclass(target, kind) and not any(map(find_spec, packages)):
                raise InputError(f"logger.{name} needs {packages[0]}: pip install -c constraints.txt -e '.[loggers]'")


class Loggers:
    """The loggers that ``make`` returns by name, made when they are first used, so that a run that fails earlier leaves
    nothing.

    All get the same hyperparameters and metrics, and only what is ``public``. One that fails while it is started ends
    the run (InputError); one that fails later is left out, since ``metrics.csv`` has every step.
    """

    def __init__(self, make: Callable[[], dict[str, Logger]], config: dict[str, Any], folder: Path) -> None:
        self.make, self.config, self.folder = make, config, folder

    def open(self) -> None:
        """Make the loggers, before anything that is measured as training."""
        assert self._started is not None

    @cached_property
    def _started(self) -> dict[str, Logger]:
        try:
            loggers = self.make()
            for logger in loggers.values():
                self._forget(logger)
                logger.log_hyperparams(public(self.config))
        except Exception as error:  # loggers have no common exception
            reason = " ".join(str(error.__cause__ or error).split())[:300]
            raise InputError(f"logger: {reason}; correct its settings, or set logger=none") from error
        return loggers

    def _forget(self, logger: Logger) -> None:
        """Remove what this logger wrote to the run's folder before the run was killed: it is told everything again."""
        if not isinstance(logger, WandbLogger) and logger.log_dir:
            place = Path(logger.log_dir).resolve()
            if self.folder.resolve() in place.parents:
                shutil.rmtree(place, ignore_errors=True)

    def log(self, metrics: dict[str, float], step: int) -> None:
        def tell(logger: Logger) -> None:
            logger.log_metrics(metrics, step=step)
            logger.save()  # at once, not by a thread during the next fit; and a killed run keeps it

        self._each(tell)

    def finish(self, record: dict[str, Any], tables: Mapping[str, pd.DataFrame], step: int) -> None:
        """Log the public numbers of the record as ``record/...``; in W&B, its summary and ``tables``."""
        record = public(record)
        numbers = {f"record/{name}": float(value) for name, value in record.items() if type(value) in (int, float)}

        def tell(logger: Logger) -> None:
            if isinstance(logger, WandbLogger):
                log_results(logger.experiment, record, tables)
            else:
                logger.log_metrics(numbers, step=step)

        self._each(tell)

    def close(self, status: str) -> None:
        """Finalise the loggers with Lightning's ``status``: success or failed."""
        if "_started" in self.__dict__:
            self._each(lambda logger: logger.finalize(status))

    def _each(self, tell: Callable[[Logger], None]) -> None:
        for name, logger in list(self._started.items()):
            try:
                tell(logger)
            except Exception as error:
                del self._started[name]
                LOG.warning("logger.%s failed and is left out from now on: %s", name, error)


def wandb_mode() -> Any:
    """``WANDB_MODE`` if it is set; else online if there is a key for the server; else offline."""
    if mode := os.environ.get("WANDB_MODE"):
        return mode
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        entry = netrc.netrc(os.environ.get("NETRC")).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        entry = None
    return "online" if entry else "offline"


def wandb_logger(folder: str, project: str, name: str, group: str | None, tags: Sequence[str]) -> Logger:
    """A new W&B run, online if the server answers within 15 seconds, else offline.

    It captures neither command line, host, paths, console nor code.
    """
    import wandb

    off = ("disable_code", "disable_git", "x_disable_machine_info", "x_disable_meta", "x_disable_stats", "silent")
    # Without a key, wandb would ask for one; without a network, it would wait 90 seconds.
    settings = wandb.Settings(
        init_timeout=15,
        login_timeout=15,
        console="off",
        host="-",  # else the machine's name, despite all other settings
        symlink=False,
        x_save_requirements=False,
        **dict.fromkeys(off, True),
    )

    def start(mode: Any) -> wandb.Run:
        about: dict[str, Any] = {"project": project, "name": name, "group": group, "tags": list(tags)}
        return wandb.init(dir=folder, mode=mode, settings=settings, reinit="finish_previous", **about)

    try:
        run = start(wandb_mode())
    except wandb.errors.Error as error:
        LOG.warning("Weights & Biases cannot be reached (%s); this run is logged offline", type(error).__name__)
        run = start("offline")
    return _OneRun(experiment=run, save_dir=folder)


class _OneRun(WandbLogger):
    """Finishes its W&B run, which Lightning's logger leaves open for the next job of the process."""

    def finalize(self, status: str) -> None:
        super().finalize(status)
        self.experiment.finish(exit_code=0 if status == "success" else 1)
        # W&B's own log contains paths, and is in the folder that users share to show an offline run.
        shutil.rmtree(self.experiment.settings.log_dir, ignore_errors=True)
