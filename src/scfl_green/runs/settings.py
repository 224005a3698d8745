"""What a composed configuration must look like: the one place where values are checked."""

from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from scfl_green.errors import InputError

EXTRA = "-c constraints.txt -c constraints-privacy.txt -e '.[privacy]'"
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]


class _Group(BaseModel):
    # Groups carry arguments of the objects they name, which those objects check themselves.
    model_config = ConfigDict(extra="allow", strict=True)


class Data(_Group):
    name: Annotated[str, Field(min_length=1)]
    path: Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(min_length=1)] | None
    label_key: str
    client_key: str | None
    donor_key: str | None
    gene_key: str | None
    counts: str | None
    preprocess: Literal["log_normalise", "none"]
    min_cells_per_type: PositiveInt | None
    min_gene_overlap: Annotated[float, Field(ge=0, le=1)]
    drop_unlabelled: bool
    keep_empty: bool
    n_genes: PositiveInt
    standardise: bool
    batch_size: PositiveInt


class Genes(_Group):
    n_genes: PositiveInt = 1


class SplitSettings(_Group):
    test: Literal["cells", "donors"] | Annotated[list[str | int], Field(min_length=1)]
    test_share: Annotated[float, Field(gt=0, lt=1)]
    validation: Share
    newcomers: Annotated[int, Field(ge=0)] | list[str | int]
    seed: Annotated[int, Field(ge=0)]
    random_state: Annotated[int, Field(ge=0, lt=2**32)] = 0
    clients: PositiveInt = 1
    alpha: Annotated[float, Field(ge=1e-3, le=1e6)] = 1.0
    n_chunks: PositiveInt = 1
    size: PositiveInt | None = None


class Optimizer(_Group):
    lr: float = Field(gt=0, le=10)


class Model(_Group):
    width: float = Field(gt=0, le=100)
    hidden: PositiveInt | list[PositiveInt] = 1
    latent: PositiveInt = 1
    layers: PositiveInt = 1
    steps: PositiveInt = 1
    dropout: Share = 0.0
    l2: Weight = 0.0
    beta: Annotated[float, Field(ge=0, le=1)] = 0.0
    reconstruction: Weight = 0.0
    deep_cut: Weight = 0.0
    orthogonality: Weight = 0.0
    clustering: Weight = 0.0
    cellnet: bool = False
    cellnet_weight: Weight = 0.0
    attention_gate: bool = False
    optimizer: Optimizer


class TrainerSettings(_Group):
    max_epochs: PositiveInt
    precision: Literal["32-true", "mixed", "bf16-mixed", "16-mixed"]
    packed: bool
    parallel_clients: PositiveInt


class Strategy(_Group):
    fraction_train: Annotated[float, Field(gt=0, le=1)] = 1.0
    fraction_evaluate: Annotated[float, Field(ge=0, le=1)] = 1.0
    proximal_mu: Weight = 0.0
    eta: Positive = 1.0


class Federation(_Group):
    rounds: PositiveInt
    local_epochs: PositiveInt
    min_cells: Annotated[int, Field(ge=0)]
    min_clients: PositiveInt | None
    timeout_seconds: Positive
    strategy: Strategy


class Carbon(_Group):
    country: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    cpu_watts: Annotated[float, Field(gt=0)] | None
    ram_watts: Annotated[float, Field(gt=0)] | None
    network_kwh_per_gb: float = Field(ge=0)
    min_seconds: float = Field(ge=0)


class PruneSettings(_Group):
    fraction: Annotated[float, Field(gt=0, lt=1)]
    after_round: PositiveInt
    after_epoch: PositiveInt


class BudgetSettings(_Group):
    grams: Annotated[float, Field(gt=0)] | None
    min_f1_per_gram: float | None
    window: PositiveInt


class Privacy(_Group):
    noise_multiplier: Positive
    max_grad_norm: Positive
    epsilon: Positive
    delta: Annotated[float, Field(gt=0, lt=1)]


class FineTuning(_Group):
    client: str | int | None
    patience: PositiveInt | None = None
    freeze: list[str] = []
    target_f1: Annotated[float, Field(gt=0, le=1)] | None = None


class Settings(_Group):
    seed: int = Field(ge=0, lt=2**32)
    threads: PositiveInt
    name: str
    weights: str | None
    trusted: list[str]
    data: Data
    genes: Genes
    split: SplitSettings
    model: Model
    trainer: TrainerSettings
    federation: Federation
    carbon: Carbon
    prune: PruneSettings | None
    budget: BudgetSettings | None
    privacy: Privacy | None
    finetuning: FineTuning

    @model_validator(mode="after")
    def _suits_the_trainer(self) -> "Settings":
        usual = {"gradient_clip_val": None, "accumulate_grad_batches": 1, "max_steps": -1, "min_steps": None}
        per_step = [key for key, value in usual.items() if getattr(self.trainer, key, value) not in (None, value)]
        if self.trainer.packed and per_step:
            raise ValueError(f"trainer.{per_step[0]} is Lightning's work around each step: set trainer.packed=false")
        if self.trainer.parallel_clients > 1 and self.threads > 1:
            raise ValueError("trainer.parallel_clients above 1 wants threads=1: each client has a process already")
        if self.privacy and (not self.trainer.packed or self.trainer.parallel_clients > 1):
            raise ValueError("privacy=dp_sgd should have trainer.packed=true and trainer.parallel_clients=1")
        if self.privacy and find_spec("opacus") is None:
            raise ValueError(f"privacy=dp_sgd needs Opacus: pip install {EXTRA}")
        return self

    @model_validator(mode="after")
    def _prune_within_training(self) -> "Settings":
        if self.prune and (
            self.prune.after_round >= self.federation.rounds or self.prune.after_epoch >= self.trainer.max_epochs
        ):
            raise ValueError("there should be training left after pruning: lower prune.after_round")
        if self.prune and self.budget:
            raise ValueError("opt=prune and callbacks=carbon_budget each decide when training ends: choose one")
        return self


def check(config: dict[str, Any]) -> None:
    """Raises InputError naming every wrong value of a resolved configuration: where, what, and what is expected."""
    try:
        Settings.model_validate(config)
    except ValidationError as error:
        expected: dict[str, list[str]] = {}
        for wrong in error.errors():
            place = f"{_path(config, wrong['loc'])}={wrong['input']}: " if wrong["loc"] else ""
            said = wrong["msg"].removeprefix("Value error, ")
            expected.setdefault(place, []).append(said[0].lower() + said[1:])
        raise InputError("; ".join(f"{place}{', or '.join(said)}" for place, said in expected.items())) from None


def _path(config: Any, location: tuple[int | str, ...]) -> str:
    """The key as a user would override it; pydantic adds the alternatives of a union to it."""
    path = []
    for step in location:
        if not isinstance(config, dict):
            break
        path.append(str(step))
        config = config.get(step)
    return ".".join(path)
