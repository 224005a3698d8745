"""The settings of a hospital's site: its own file, and what it agrees to. They never leave it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from scfl_green.bounds import Count, Positive
from scfl_green.data.reading.file import File, Reading
from scfl_green.errors import InputError
from scfl_green.files import write_atomically

FILE = "site.yaml"
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class Limits(BaseModel):
    """What a site agrees to, whatever a server asks. ``epsilon`` and ``emissions_g`` are of all trainings together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_cells: NonNegativeInt = 50  # of training, that it has at all
    fewest_told: Count = 10  # of types with fewer cells no number is told
    most_rounds: Count = 100  # of one training
    most_local_epochs: Count = 20  # of one round
    most_parameters: Count = 100_000_000  # of a network
    strategies: list[str] = [
        "flwr.serverapp.strategy.FedAvg",
        "flwr.serverapp.strategy.FedProx",
        "flwr.serverapp.strategy.FedAdam",
        "flwr.serverapp.strategy.FedYogi",
        "scfl_green.federated.CarbonAware",
    ]
    only_masked: bool = False  # sums over cells only under masks, which at least three sites need
    trusted: list[str] = []  # more modules whose code a server may name, beside those of security/targets.py
    epsilon: Positive | None = None  # if set, only privacy=dp_sgd, and no more than this
    emissions_g: Positive | None = None  # if set, no training once it has emitted as much


class SiteSettings(BaseModel):
    """A site: its name among the others, its file and how that is read, its meter, its limits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    cells: Path
    label_key: str = "cell_type"
    gene_key: str | None = None
    counts: str | None = None
    fractions: bool = False
    drop_unlabelled: bool = False
    keep_empty: bool = False
    country: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "DEU"
    cpu_watts: Positive | None = None
    ram_watts: Positive | None = None
    limits: Limits = Limits()

    def reading(self, preprocess: bool) -> Reading:
        """How the file is read for a run."""
        own = ("label_key", "gene_key", "counts", "fractions", "drop_unlabelled", "keep_empty")
        return Reading(**{name: getattr(self, name) for name in own}, preprocess=preprocess)

    def file(self, preprocess: bool = True) -> File:
        """The site's file; InputError if its cells cannot be used for training."""
        file = File.read(self.cells, self.reading(preprocess), alone=False)
        owner = np.full(len(file.labels), self.name, dtype=object)
        return replace(file, name=self.name, clients=owner, donors=owner)

    def save(self, folder: Path) -> None:
        write_atomically(folder / FILE, OmegaConf.to_yaml(self.model_dump(mode="json")).encode())

    @classmethod
    def load(cls, folder: Path) -> "SiteSettings":
        """InputError for a folder that is no site's, or settings that are wrong."""
        try:
            values: Any = OmegaConf.to_container(OmegaConf.load(folder / FILE))
            return checked(values, str(folder / FILE))
        except FileNotFoundError:
            raise InputError(f"{folder}: no {FILE} there; join a federation first: scfl-green site join") from None


def checked(values: Mapping[str, Any], where: str) -> SiteSettings:
    """The settings of these values; InputError naming every wrong one."""
    try:
        return SiteSettings.model_validate(values)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, one['loc']))}={one['input']!r}: {one['msg']}" for one in error.errors())
        raise InputError(f"{where}: {'; '.join(problems)}") from None
