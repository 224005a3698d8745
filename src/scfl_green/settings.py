"""What a composed configuration must look like: the one place where values are checked."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scfl_green.errors import InputError

Share = Annotated[float, Field(ge=0, lt=1)]


class _Group(BaseModel):
    # Groups carry arguments of the objects they name, which those objects check themselves.
    model_config = ConfigDict(extra="allow", strict=True)


class Data(_Group):
    source: dict[str, Any]
    label_key: str
    client_key: str | None
    n_genes: int = Field(gt=0)
    batch_size: int = Field(gt=0)


class SplitSettings(_Group):
    test: Annotated[float, Field(gt=0, lt=1)]
    validation: Share
    newcomers: Annotated[int, Field(ge=0)] | list[str]


class Model(_Group):
    width: float = Field(gt=0)


class TrainerSettings(_Group):
    max_epochs: int = Field(gt=0)
    precision: Literal["32-true", "mixed", "bf16-mixed", "16-mixed", "64-true"]


class Federation(_Group):
    rounds: int = Field(gt=0)
    local_epochs: int = Field(gt=0)


class Carbon(_Group):
    country: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    cpu_watts: Annotated[float, Field(gt=0)] | None
    ram_watts: Annotated[float, Field(gt=0)] | None
    network_kwh_per_gb: float = Field(ge=0)


class Settings(_Group):
    seed: int = Field(ge=0)
    threads: int = Field(gt=0)
    name: str
    weights: str | None
    data: Data
    split: SplitSettings
    model: Model
    trainer: TrainerSettings
    federation: Federation
    carbon: Carbon


def check(config: dict[str, Any]) -> None:
    """Raises InputError naming every wrong value of a resolved configuration: where, what, and what is expected."""
    try:
        Settings.model_validate(config)
    except ValidationError as error:
        found = [
            f"{'.'.join(str(step) for step in e['loc'])}={e['input']}: {e['msg'][0].lower()}{e['msg'][1:]}"
            for e in error.errors()
        ]
        raise InputError("; ".join(found)) from None
