"""Progress of a run: a progress bar, metrics.csv, and what its loggers are told."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from pytorch_lightning.loggers import Logger

from scfl_green.energy.meter import EnergyMeter
from scfl_green.runs.loggers import Loggers
from scfl_green.runs.progress import ProgressBar
from scfl_green.training.hooks import Hook, PartialStep, State, Step

LOG = logging.getLogger(__name__)


class Tracker(Hook):
    """Reports every finished round or epoch: by a progress bar on a terminal or else a plain line, in ``metrics.csv``,
    and to the loggers of ``make_loggers``, made on the first step, so that a run that fails earlier leaves nothing.
    A resumed run reports its earlier steps again."""

    def __init__(
        self, folder: Path, meter: EnergyMeter, config: dict[str, Any], make_loggers: Callable[[], dict[str, Logger]]
    ) -> None:
        self.folder, self.path = folder, folder / "metrics.csv"
        self.history: list[tuple[str, int, dict[str, float]]] = []
        self.meter, self.loggers = meter, Loggers(make_loggers, config, folder)
        self.bar = ProgressBar()

    def __enter__(self) -> "Tracker":
        self.path.unlink(missing_ok=True)
        self.bar.start()
        return self

    def open(self) -> None:
        """Make the loggers, before anything that is measured as training."""
        self.loggers.open()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.bar.stop()
        self.loggers.close("success" if error is None else "failed")

    def after(self, step: Step) -> None:
        self.meter.write(self.folder / "energy.csv")  # so that a killed run leaves its consumption
        used, metrics = step.used, step.metrics
        metrics |= {"emissions/co2eq_g": used.emissions_kg * 1e3, "emissions/energy_wh": used.energy_kwh * 1e3}
        self.history.append((step.unit, step.number, metrics))
        self._write()
        self.loggers.log(metrics, step.number)
        stage = "validation" if "validation/accuracy" in metrics else "train"
        # Private training without validation cells has no score, nor has a closed form.
        score = metrics.get(f"{stage}/accuracy")
        told = "" if score is None else f"{stage} accuracy {score:.3f}  "
        status = f"{told}{metrics['emissions/co2eq_g']:.4f} g CO2e"
        self.bar.after(step.unit, step.number, step.total, status)
        # With a bar, only for the log file.
        level = logging.DEBUG if self.bar.shown else logging.INFO
        LOG.log(level, "%s %d/%d  %s", step.unit, step.number, step.total, status)

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
            self.loggers.log(metrics, step)

    def _write(self) -> None:
        """Write ``metrics.csv`` anew, since a later row may have further columns."""
        rows = [{unit: number, **metrics} for unit, number, metrics in self.history]
        pd.DataFrame(rows).to_csv(self.path, index=False)

    def finish(self, record: dict[str, Any], tables: dict[str, pd.DataFrame]) -> None:
        """Give the loggers the record and the tables of a finished run."""
        self.loggers.finish(record, tables, self.history[-1][1])
