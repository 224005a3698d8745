"""Progress of a run: a progress bar, metrics.csv, and loggers such as Weights & Biases."""

import logging
import math
import netrc
import os
import shutil
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pandas as pd
from pytorch_lightning.loggers import Logger, WandbLogger

from scfl_green.energy.meter import EnergyMeter
from scfl_green.runs.progress import ProgressBar
from scfl_green.security.confidential import public
from scfl_green.training.hooks import Hook, PartialStep, State, Step

LOG = logging.getLogger(__name__)


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


class Tracker(Hook):
    """Reports every finished round or epoch: by a progress bar on a terminal or else a plain line, in ``metrics.csv``,
    and to the loggers of ``make_loggers``, made on the first step, so that a run that fails earlier leaves nothing.
    A resumed run reports its earlier steps again."""

    def __init__(
        self, folder: Path, meter: EnergyMeter, config: dict[str, Any], make_loggers: Callable[[], dict[str, Logger]]
    ) -> None:
        self.folder, self.path = folder, folder / "metrics.csv"
        self.history: list[tuple[str, int, dict[str, float]]] = []
        self.meter, self.config, self.make_loggers = meter, config, make_loggers
        self.bar = ProgressBar()

    @cached_property
    def loggers(self) -> list[Logger]:
        loggers = list(self.make_loggers().values())
        for logger in loggers:
            logger.log_hyperparams(public(self.config))
        return loggers

    def __enter__(self) -> "Tracker":
        self.path.unlink(missing_ok=True)
        self.bar.start()
        return self

    def open(self) -> None:
        """Make the loggers, before anything that is measured as training."""
        assert self.loggers is not None

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.bar.stop()
        for logger in self.__dict__.get("loggers", []):
            logger.finalize("success" if error is None else "failed")

    def after(self, step: Step) -> None:
        self.meter.write(self.folder / "energy.csv")  # so that a killed run leaves its consumption
        used, metrics = step.used, step.metrics
        metrics |= {"emissions/co2eq_g": used.emissions_kg * 1e3, "emissions/energy_wh": used.energy_kwh * 1e3}
        self.history.append((step.unit, step.number, metrics))
        self._write()
        self._log(step.number, metrics)
        stage = "validation" if "validation/accuracy" in metrics else "train"
        # Private training without validation cells has no score.
        score = metrics.get(f"{stage}/accuracy", math.nan)
        status = f"accuracy {score:.3f}  {metrics['emissions/co2eq_g']:.4f} g CO2e"
        self.bar.after(step.unit, step.number, step.total, status)
        # With a bar, only for the log file.
        level = logging.DEBUG if self.bar.shown else logging.INFO
        LOG.log(level, "%s %d/%d  %s %s", step.unit, step.number, step.total, stage, status)

    def within(self, step: PartialStep) -> None:
        self.bar.within(step)

    def state_dict(self) -> State:
        return {"history": self.history}

    def load_state_dict(self, state: State) -> None:
        self.history = state["history"]
        unit, number, _ = self.history[-1]
        LOG.info("%s: resuming after %s %d", self.folder, unit, number)
        self._write()
        for _, step, metrics in self.history:
            self._log(step, metrics)

    def _write(self) -> None:
        """Write ``metrics.csv`` anew, since a later row may have further columns."""
        rows = [{unit: number, **metrics} for unit, number, metrics in self.history]
        pd.DataFrame(rows).to_csv(self.path, index=False)

    def _log(self, step: int, metrics: dict[str, float]) -> None:
        for logger in self.loggers:
            logger.log_metrics(metrics, step=step)

    def finish(self, record: dict[str, Any], tables: dict[str, pd.DataFrame]) -> None:
        """Write the public fields of the record to the summary of the W&B run, and log them and ``tables`` as pages."""
        record = public(record)
        fields = pd.DataFrame({"field": record.keys(), "value": map(str, record.values())})
        for logger in self.loggers:
            if isinstance(logger, WandbLogger):
                import wandb

                # Not wandb.Table, an artifact that reveals the path of the user's home.
                pages = {name: wandb.Html(table.to_html()) for name, table in {"record": fields, **tables}.items()}
                logger.experiment.log(pages)
                logger.experiment.summary.update(record)
