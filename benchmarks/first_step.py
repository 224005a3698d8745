"""Told of by configuration, from within a run: when training begins and jobs of a sweep end."""

import os
import time
from typing import Any

import pytorch_lightning as pl
from hydra.experimental.callback import Callback


class FirstStep(pl.Callback):
    """Prints the time of the first training step that counts; the one before it was the warm-up's."""

    steps = 0

    def __init__(self, stop: bool) -> None:
        self.stop = stop

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        FirstStep.steps += 1
        if FirstStep.steps == 2:
            say("first step")
            if self.stop:
                os._exit(0)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        say("fitted")


class Jobs(Callback):
    """Prints when a job of a sweep ends."""

    def on_job_start(self, **_: Any) -> None:
        FirstStep.steps = 0

    def on_job_end(self, **_: Any) -> None:
        say("end")


def say(what: str) -> None:
    print(f"\n@ {what} {time.time():.4f}", flush=True)
