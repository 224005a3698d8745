"""The packed step: Lightning handed an epoch at a time learns the same weights, to the bit, as batch by batch."""

from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from jobs import ADAM, make_job, split_of
from scfl_green.data.features.datamodule import Batches, CellDataModule, Features
from scfl_green.data.reading.cells import Cells
from scfl_green.energy.meter import EnergyMeter
from scfl_green.models.actinn import ACTINN
from scfl_green.models.base import CellClassifier
from scfl_green.models.sccdcg import ScCDCG
from scfl_green.models.scdlc import ScDLC
from scfl_green.models.scsmd import ScSMD
from scfl_green.training.callbacks import Proximal
from scfl_green.training.job import Job, Weights

SCHEDULED = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.9)
LIGHTNING = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def part_of(job: Job):
    return next(iter(job.split.clients.values()))


@pytest.mark.parametrize("callbacks", [[], [Proximal(0.1)]], ids=["plain", "with hooks"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("framework", [ACTINN, ScDLC, ScCDCG, ScSMD])
def test_an_epoch_at_a_time_gives_the_same_bits(
    few: Cells, meter: EnergyMeter, framework: type[CellClassifier], precision: str, callbacks: list[pl.Callback]
) -> None:
    trainer = partial(pl.Trainer, accelerator="cpu", devices=1, precision=precision)
    learnt = {}
    for packed in (True, False):
        job = make_job(
            few, meter, model=partial(framework, scheduler=SCHEDULED), packed=packed, trainer=trainer, batch_size=7
        )
        learnt[packed] = job.fit(part_of(job), job.initial, epochs=3, callbacks=callbacks, validate=True)
        assert not same(learnt[packed][0], job.initial)
    assert same(learnt[True][0], learnt[False][0])
    assert learnt[True][1] == learnt[False][1]


@pytest.mark.parametrize("packed", [True, False])
def test_hooks_around_a_step_are_called_however_batches_come(few: Cells, meter: EnergyMeter, packed: bool) -> None:
    called = []

    class Watch(pl.Callback):
        def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            called.append(all(p.grad is not None for p in pl_module.parameters()))

    job = make_job(few, meter, packed=packed, batch_size=7)
    job.fit(part_of(job), job.initial, epochs=2, callbacks=[Watch()])
    assert called == [True] * 2 * -(-len(part_of(job).train) // 7)


def test_what_a_fit_learns_does_not_depend_on_the_fits_before(few: Cells, meter: EnergyMeter) -> None:
    used, fresh = make_job(few, meter, model=ScDLC), make_job(few, meter, model=ScDLC)
    first, second = list(used.split.clients.values())[:2]
    used.fit(second, used.initial, epochs=3, validate=True)
    used.validate(second, used.initial)
    assert same(used.fit(first, used.initial, epochs=2)[0], fresh.fit(first, fresh.initial, epochs=2)[0])


def test_a_framework_is_an_ordinary_module_for_any_trainer(few: Cells, meter: EnergyMeter) -> None:
    job = make_job(few, meter)
    model = ACTINN(n_genes=100, n_types=len(few.types), optimizer=ADAM)
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", num_sanity_val_steps=0, **LIGHTNING)
    trainer.fit(model, datamodule=CellDataModule(job.features, part_of(job), 16, [0]))
    assert trainer.callback_metrics["train/accuracy"] == pytest.approx(model.scores["train/accuracy"])
    assert "validation/weighted_f1" in trainer.callback_metrics


@pytest.mark.parametrize("batch_size", [1, 7, 128, 200, 10_000])
def test_batches_gathered_together_hold_the_same_cells(few: Cells, meter: EnergyMeter, batch_size: int) -> None:
    features: Features = make_job(few, meter).features
    rows = np.arange(len(few))[::-1]
    (packed,) = [features[item] for item in Batches(rows, batch_size, [3], packed=True)]
    alone = [features[item] for item in Batches(rows, batch_size, [3])]
    together = list(packed)
    assert len(together) == len(alone) == -(-len(rows) // batch_size)
    for (x, y), (x_alone, y_alone) in zip(together, alone, strict=True):
        assert torch.equal(x, x_alone)
        assert torch.equal(y, y_alone)


def test_the_ledger_tells_how_often_cells_were_trained_on(few: Cells, meter: EnergyMeter) -> None:
    job = make_job(few, meter, split=split_of(few, validation=0.0))
    job.warm_up()
    part = part_of(job)
    job.fit(part, job.initial, epochs=3, round_number=2)
    entry = meter.entries["fit", 2, part.name]
    assert entry.cells == 3 * len(part.train)
    assert entry.flops > 0
    assert meter.total("fit").cells == entry.cells
