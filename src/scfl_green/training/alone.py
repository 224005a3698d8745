"""Training on one part, as central training and fine-tuning do: fits that go on where they were killed."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback, EarlyStopping
from safetensors.torch import load, save

from scfl_green.data.partition import Part
from scfl_green.energy.ledger import FIT
from scfl_green.errors import InputError
from scfl_green.training.callbacks import BestWeights, EachEpoch
from scfl_green.training.job import Job, Weights

# Lightning's checkpoint of the last epoch.
EPOCH = "epoch.ckpt"


def fit_alone(
    job: Job,
    part: Part,
    arm: str,
    weights: Weights,
    epochs: int,
    after: Callable[[int, dict[str, float]], bool],
    patience: int | None = None,
    callbacks: Sequence[Callback] = (),
    fit_as: str = FIT,
) -> Weights:
    """Weights fitted to one part, in two stages with pruning in between where there is any to do; ``arm`` names it in
    the checkpoint, and ``after`` is told of every epoch and says whether it is enough."""
    if patience is not None:
        if not len(part.validation):
            raise InputError("finetuning.patience stops by validation cells: set split.validation above 0")
        stop = EarlyStopping("validation/weighted_f1", mode="max", patience=patience)
        callbacks = [*callbacks, stop, BestWeights()]
    done = 0
    for stage, until in enumerate([*([job.prune.after_epoch] if job.prune else []), epochs]):
        if stage > 0:
            weights = job.pruned(weights)
        each = partial(EachEpoch, after, done)
        how = {"epochs": until - done, "round_number": stage, "fit_as": fit_as}
        weights = _kept_fit(job, f"{arm}, stage {stage}", part, weights, each, callbacks, **how)
        done = until
    return weights


def _kept_fit(
    job: Job,
    name: str,
    part: Part,
    weights: Weights,
    each_epoch: Callable[..., EachEpoch],
    callbacks: Sequence[Callback],
    **how: Any,
) -> Weights:
    """A fit that goes on after the last epoch that a killed run had finished; nothing is left to do where that run had
    finished the fit."""
    kept, finished, resume = job.checkpoint, f"{name}.safetensors", None
    if kept.begun and finished in kept.files:
        return load(kept.files[finished])
    if kept.begun and kept.last and kept.state.get("fit") == name:
        resume = kept.last / EPOCH
        weights = torch.load(resume, weights_only=True)["state_dict"]

    def keep(trainer: Trainer) -> None:
        with TemporaryDirectory() as folder:
            trainer.save_checkpoint(path := Path(folder) / EPOCH)
            kept.files[EPOCH] = path.read_bytes()
        kept.state["fit"] = name
        job.keep()

    # Killed, a private fit begins anew: what its budget had been spent on is thrown away unseen.
    callbacks = [each_epoch() if job.privacy else each_epoch(keep=keep), *callbacks]
    weights, _ = job.fit(part, weights, callbacks=callbacks, validate=True, resume=resume, **how)
    kept.files.pop(EPOCH, None)
    kept.files[finished] = save(weights)
    job.keep()
    return weights
