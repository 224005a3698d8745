"""Datasets ready for training: prepared once, stored on disk, memory-mapped by every job."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file
from scipy import sparse

from scfl_green.data.agreement import Agreement, Common, agree
from scfl_green.data.features.asked import AskedSums, Summed, one_by_one
from scfl_green.data.features.datamodule import Features
from scfl_green.data.features.prepare import ChooseGenes, Preparation
from scfl_green.data.partition import ROLES, Part, Split
from scfl_green.data.questions import PREPARE, TELL, Ask, Survey
from scfl_green.data.reading.cells import Cells
from scfl_green.data.site import Answers, Replayed, directly, in_memory
from scfl_green.data.wire import Packed, blank, packed_text
from scfl_green.files import folder_at_once

# Makes what puts questions to sites before training, in this process or by messages.
AskSites = Callable[[Mapping[str, Answers]], Ask]


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset: features of all cells, their split, the preparation, the cell types, the folder it is
    stored in (None: nowhere), notes on how the files were read, the number of genes in these, the Cell Ontology ids of
    the types (None where the files have none), the sizes of what sites were asked (``Survey.sizes``), and what sites
    have told of cells that are elsewhere, as ``table`` returns it."""

    features: Features
    split: Split
    preparation: Preparation
    types: tuple[str, ...]
    folder: Path | None
    notes: tuple[str, ...] = ()
    n_genes_read: int = 0
    type_ids: tuple[str | None, ...] = ()
    asked: Sequence[dict[str, Any]] = ()
    broad: Sequence[Sequence[int]] = ()
    told: pd.DataFrame | None = None

    def table(self) -> pd.DataFrame:
        """Count cells by client, the client's purpose, and cell type."""
        if self.told is not None:
            return self.told.copy()
        by_purpose = {"client": self.split.clients, "newcomer": self.split.newcomers, "test": self.split.tested}
        labels = {
            (name, purpose): self.features.labels[np.concatenate([getattr(part, role) for role in ROLES])]
            for purpose, parts in by_purpose.items()
            for name, part in parts.items()
        }
        rows = {place: np.bincount(own[own >= 0], minlength=len(self.types)) for place, own in labels.items()}
        table = pd.DataFrame.from_dict(rows, orient="index", columns=list(self.types))
        table.index = pd.MultiIndex.from_tuples(rows, names=["client", "kept for"])
        return table


def kept_in(cache: Path, settings: dict[str, Any]) -> Path:
    """The folder of a dataset prepared with these settings by the current code and libraries."""
    home = Path(__file__).parent
    code = {str(path.relative_to(home)): path.read_text() for path in home.rglob("*.py")}
    libraries = {name: version(name) for name in ("anndata", "numpy", "pandas", "scipy")}
    key = json.dumps(settings | {"code": code, "libraries": libraries}, sort_keys=True)
    return cache / "prepared" / hashlib.sha256(key.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Recipe:
    """How a preparation is learnt: the gene selection, whether features are standardised and counts preprocessed,
    how sites are asked, and what they are told first, the ``settings`` of the run; what they must have in
    common; and how their sums by gene are ``summed``."""

    choose_genes: ChooseGenes
    standardise: bool = False
    preprocess: bool = True
    ask: AskSites = directly
    settings: Mapping[str, Any] = field(default_factory=dict)
    common: Common = field(default_factory=Common)
    summed: Summed = one_by_one

    @property
    def told(self) -> Packed:
        """The first question to sites."""
        return {"settings": packed_text(self.settings)}

    def agree(self, survey: Survey) -> Agreement:
        """Agree with all sites on cell types and genes."""
        return agree(survey, self.told, self.common)

    def learn(self, survey: Survey, agreement: Agreement, clients: Sequence[str]) -> Preparation:
        """Learn the preparation from those sites that train, the ``clients``, and tell it all."""
        sums = AskedSums(survey, agreement, clients, self.summed)
        preparation = Preparation.learn(sums, self.choose_genes, self.standardise, self.preprocess)
        survey.all(PREPARE, preparation.packed(agreement.genes))
        return preparation


def prepare(
    cells: Cells, split: Split, folder: Path, recipe: Recipe, preparation: Preparation | None = None
) -> Dataset:
    """Learn the preparation, unless an earlier run's is given, apply it, and store the dataset in ``folder``, which
    appears whole or not at all."""
    sites = in_memory(cells, split.parts, recipe.preprocess)
    survey = Survey(recipe.ask(sites), [*sites])
    if preparation is None:
        preparation = recipe.learn(survey, recipe.agree(survey), [*split.clients])
    try:
        with folder_at_once(folder) as draft:
            _store(draft, cells, split, preparation, survey.sizes)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise
    return load(folder)


def ask_again(recipe: Recipe, asked: Sequence[dict[str, Any]]) -> None:
    """Send as many bytes as were asked for when a dataset was prepared, whose preparation is not repeated; but the
    settings of this run."""
    for one in asked:
        sites = {name: Replayed(answer) for name, (_, answer) in one["sent"].items()}
        questions = {name: blank(question) for name, (question, _) in one["sent"].items()}
        own = dict.fromkeys(questions, recipe.told) if one["kind"] == TELL else questions
        recipe.ask(sites)(one["kind"], own)


def _store(folder: Path, cells: Cells, split: Split, preparation: Preparation, asked: list[dict[str, Any]]) -> None:
    lengths = [np.zeros(1, dtype=np.int64)]
    with (folder / "data").open("wb") as data, (folder / "indices").open("wb") as indices:
        for block in preparation.apply(cells):
            # Not by tofile, which is silent about a disk that is full at its end.
            data.write(block.data.astype(np.float32).data)
            indices.write(block.indices.astype(np.int32).data)
            lengths.append(np.diff(block.indptr))
    arrays = {"indptr": np.concatenate(lengths).cumsum(), "labels": cells.labels}
    save_file(arrays | {name: getattr(preparation, name) for name in ("mean", "scale")}, folder / "arrays")
    about = {
        "types": cells.types,
        "type_ids": cells.type_ids,
        "broad": cells.broad,
        "notes": cells.notes,
        "asked": asked,
        "n_genes_read": len(cells.genes),
        "genes": preparation.genes.tolist(),
        "symbols": preparation.symbols.tolist(),
        "preprocess": preparation.preprocess,
        "split": {
            kind: {name: {role: getattr(part, role).tolist() for role in ROLES} for name, part in parts.items()}
            for kind, parts in vars(split).items()
        },
    }
    (folder / "about.json").write_text(json.dumps(about))


def load(folder: Path) -> Dataset:
    """Load a dataset that ``prepare`` stored; the features stay on disk, memory-mapped."""
    about, arrays = json.loads((folder / "about.json").read_text()), load_file(folder / "arrays")
    indptr, genes = arrays["indptr"], np.array(about["genes"], dtype=object)
    data, indices = (
        np.memmap(folder / name, dtype, "r") if indptr[-1] else np.empty(0, dtype)
        for name, dtype in (("data", np.float32), ("indices", np.int32))
    )
    values = sparse.csr_matrix((len(indptr) - 1, len(genes)), dtype=np.float32)
    # Assigned, because the constructor would check all indices and so read the whole file.
    index = np.int32 if indptr[-1] < 2**31 else np.int64
    values.data, values.indices, values.indptr = data, indices.astype(index, copy=False), indptr.astype(index)
    symbols = np.array(about["symbols"], dtype=object)
    preparation = Preparation(genes, symbols, arrays["mean"], arrays["scale"], about["preprocess"])
    kinds = {
        kind: {n: Part(n, **{role: np.array(rows, np.int64) for role, rows in roles.items()}) for n, roles in p.items()}
        for kind, p in about["split"].items()
    }
    features = Features(values, preparation.floor, arrays["labels"])
    lists: Any = {name: tuple(about[name]) for name in ("types", "notes", "type_ids")}
    told: Any = {name: about[name] for name in ("n_genes_read", "asked", "broad")}
    return Dataset(features, Split(**kinds), preparation, folder=folder, **lists, **told)
