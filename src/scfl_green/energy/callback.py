"""The CodeCarbon callback: charges a Lightning fit to the meter."""

from typing import Any

import pytorch_lightning as pl

from scfl_green.energy.ledger import FIT, VALIDATE
from scfl_green.energy.meter import EnergyMeter


class MeasureEmissions(pl.Callback):
    """Charges a fit to ``phase`` of the meter, and its validation to ``validation``.

    Works with any Trainer: ``Trainer(callbacks=[MeasureEmissions(EnergyMeter("DEU"))])``.
    """

    def __init__(
        self, meter: EnergyMeter, round_number: int = 0, client: str = "", phase: str = FIT, validation: str = VALIDATE
    ) -> None:
        self.meter, self.site, self.phase, self.validation = meter, (round_number, client), phase, validation
        self._phases: list[Any] = []

    def _enter(self, phase: str) -> None:
        self._phases.append(self.meter.phase(phase, *self.site))
        self._phases[-1].__enter__()

    def _leave(self) -> None:
        self._phases.pop().__exit__(None, None, None)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._enter(self.phase if stage == FIT else stage)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == FIT:
            self._enter(self.validation)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == FIT:
            self._leave()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._leave()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        # Lightning skips teardown after an exception.
        while self._phases:
            self._leave()
