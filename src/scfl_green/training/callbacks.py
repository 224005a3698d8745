"""Lightning callbacks: FedProx, seeds per epoch, frozen layers."""

from collections.abc import Sequence

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from scfl_green.errors import InputError


class Proximal(pl.Callback):
    """FedProx on the client: adds the gradient mu * (w - w_global) of the term mu / 2 * ||w - w_global||^2.

    Li et al. 2020 (MLSys, "Federated Optimization in Heterogeneous Networks"), section 3.2.
    """

    def __init__(self, mu: float) -> None:
        self.mu = mu
        self.start: list[Tensor] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = [p.detach().clone() for p in pl_module.parameters()]

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        for parameter, start in zip(pl_module.parameters(), self.start, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - start, alpha=self.mu)


class ShortFit(pl.Callback):
    """Seeds each epoch from ``seed`` and its number alone, so that dropout is the same after a resume, and releases the
    optimiser of a reused Trainer at the end of the fit."""

    def __init__(self, seed: Sequence[int]) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        seed = int(np.random.SeedSequence([*self.seed, trainer.current_epoch]).generate_state(1)[0])
        # torch.manual_seed spends milliseconds on seeding a GPU that is not used.
        on_cpu = pl_module.device.type == "cpu"
        (torch.default_generator.manual_seed if on_cpu else torch.manual_seed)(seed)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # It is not used again, and Lightning would move its state between devices.
        trainer.strategy.optimizers = []


class Freeze(pl.Callback):
    """Freezes the parameters whose names begin with one of ``prefixes``."""

    def __init__(self, prefixes: Sequence[str]) -> None:
        self.prefixes = tuple(prefixes)
        self.frozen: list[torch.nn.Parameter] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        names = [name for name, _ in pl_module.named_parameters()]
        for prefix in self.prefixes:
            if not any(name.startswith(prefix) for name in names):
                found = ", ".join(names)
                raise InputError(f"finetuning.freeze: no parameter's name begins with {prefix}; there are {found}")
        self.frozen = [p for name, p in pl_module.named_parameters() if name.startswith(self.prefixes)]
        if len(self.frozen) == len(names):
            raise InputError("finetuning.freeze covers all parameters: leave some to train")
        for parameter in self.frozen:
            parameter.requires_grad_(False)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for parameter in self.frozen:
            parameter.requires_grad_(True)
