"""What sites agree on before training: cell types and genes, composed from names and numbers that they tell."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from scfl_green.data.partition import ROLES
from scfl_green.data.questions import AGREE, GENES, TELL, Survey
from scfl_green.data.reading import genes
from scfl_green.data.reading.genes import GeneNames
from scfl_green.data.reading.labels import check_types, one_id_each, one_registry
from scfl_green.data.reading.naming import one_name_each
from scfl_green.data.reading.ontology import broader
from scfl_green.data.wire import Arrays, Packed, packed_places, packed_text, read_each, unpacked_places, unpacked_text

# Of a site.
MOST_CELLS = 10**8


@dataclass(frozen=True)
class Told:
    """What a site tells of its cells: its genes, its cells by type (None: fewer than it tells), and the Cell Ontology
    ids of its types."""

    genes: GeneNames
    types: Mapping[str, int | None]
    ids: Mapping[str, set[str]]

    def about(self, fewest: int = 1) -> Packed:
        """The first answer: everything but the names of genes; of types with fewer than ``fewest`` cells no number."""
        types = {name: n if n is None or n >= fewest else None for name, n in self.types.items()}
        ids = {name: sorted(of_type) for name, of_type in self.ids.items()}
        about = {"types": types, "ids": ids, "n_genes": len(self.genes.names), "genes": self.genes_sha256}
        return {"about": packed_text(about)}

    def names(self) -> Packed:
        """The second answer, asked of one of the sites with these genes."""
        return {"names": packed_text({name: _list(names) for name, names in vars(self.genes).items()})}

    @cached_property
    def genes_sha256(self) -> str:
        """The hash of the names of genes, in their order."""
        return hashlib.sha256(self.names()["names"].tobytes()).hexdigest()


@dataclass(frozen=True)
class Common:
    """What all sites must have in common: cell types with at least so many cells, but none of those to drop, and at
    least this share of the smallest site's genes."""

    min_cells_per_type: int | None = None
    min_gene_overlap: float = 0.0
    drop_types: Sequence[str] = ()


@dataclass(frozen=True)
class Agreement:
    """The cell types of all sites and their Cell Ontology ids, the genes of all sites and their symbols, each site's
    genes among them by position, notes on both, new names of types, names that stand for any of several types, and each
    site's cells by type (None: fewer than it tells) and, once it has agreed, by role."""

    types: tuple[str, ...]
    type_ids: tuple[str | None, ...]
    genes: np.ndarray
    symbols: np.ndarray
    positions: Mapping[str, np.ndarray]
    notes: tuple[str, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)
    broad: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    told: Mapping[str, Mapping[str, int | None]] = field(default_factory=dict)
    cells: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, told: Mapping[str, Told], common: Common) -> "Agreement":
        """Compose it from what sites tell; genes are matched by ``reading.genes.match``. InputError if these do not
        match."""
        all_ids = [site.ids for site in told.values()]
        renamed, notes = one_name_each([site.types for site in told.values()], all_ids)
        named = {name: _renamed(site.types, renamed) for name, site in told.items()}
        types, dropped = one_registry(named.values(), common.min_cells_per_type, common.drop_types)
        ids, several = one_id_each(types, all_ids)
        id_of = dict(zip(types, ids, strict=True))
        broad, of_broad = broader([*named.values()], id_of)
        types = tuple(name for name in types if name not in broad)
        # Sites with the same genes count as one, whose order is kept.
        first = {site.genes_sha256: name for name, site in reversed([*told.items()])}
        distinct = [name for name in told if name in first.values()]
        space = genes.match({name: told[name].genes for name in distinct}, common.min_gene_overlap)
        places = dict(zip(distinct, space.positions, strict=True))
        same = [f"genes: the same {len(space.names)} in all files"] if len(distinct) == 1 < len(told) else []
        positions = {name: places[first[site.genes_sha256]] for name, site in told.items()}
        all_notes = (*space.notes, *same, *notes, *dropped, *several, *of_broad)
        return cls(
            types, tuple(map(id_of.get, types)), space.names, space.symbols, positions, all_notes, renamed, broad, named
        )

    def checked(self) -> "Agreement":
        """The same; InputError if its types cannot be classified, or genes of several sites are numbered."""
        check_types(self.types, [*self.told.values()])
        if len(self.told) > 1:
            genes.check_named(self.genes)
        return self

    def question(self, name: str) -> Packed:
        """The agreement, as a site needs it: the types, and where its genes are."""
        about = {"types": self.types, "ids": self.type_ids, "n_genes": len(self.genes)}
        about |= {"renamed": self.renamed, "broad": self.broad}
        return {"about": packed_text(about), "positions": packed_places(self.positions[name])}


@dataclass(frozen=True)
class Agreed:
    """The agreement that a site gets."""

    types: tuple[str, ...]
    type_ids: tuple[str | None, ...]
    n_genes: int
    positions: np.ndarray
    renamed: Mapping[str, str]
    broad: Mapping[str, tuple[str, ...]]

    @classmethod
    def unpacked(cls, question: Arrays, n_own: int) -> "Agreed":
        """Undo ``Agreement.question`` at a site with ``n_own`` genes; ValueError for anything else."""
        about, positions = unpacked_text(question["about"]), unpacked_places(question["positions"], n_own)
        types, n_genes = tuple(map(str, about["types"])), int(about["n_genes"])
        if len(positions) and not 0 <= positions.min() <= positions.max() < n_genes:
            raise ValueError("positions of genes that are not there")
        renamed = {str(old): str(new) for old, new in about["renamed"].items()}
        broad = {str(name): tuple(map(str, kinds)) for name, kinds in about["broad"].items()}
        if not all(broad.values()) or not set().union(*broad.values()) <= set(types):
            raise ValueError("kinds of types that are not there")
        return cls(types, tuple(about["ids"]), n_genes, positions, renamed, broad)


def agree(survey: Survey, settings: Arrays, common: Common) -> Agreement:
    """Ask all sites what they have, telling them the ``settings`` of the run, and tell each what they agree on.

    The names of genes travel once for all sites that have the same.
    """
    about = read_each(TELL, survey.all(TELL, settings), _about)
    first = {genes: name for name, (genes, _) in reversed(about.items())}
    named = read_each(GENES, survey.all(GENES, {}, [*first.values()]), _names)
    told = {name: Told(named[first[genes]], *types) for name, (genes, types) in about.items()}
    agreement = Agreement.of(told, common)
    answers = survey(AGREE, {name: agreement.question(name) for name in told})
    return replace(agreement, cells=read_each(AGREE, answers, _sizes))


def _renamed(types: Mapping[str, int | None], new: Mapping[str, str]) -> dict[str, int | None]:
    """Cells by type under new names; a number that is not told stays untold."""
    named: dict[str, int | None] = {}
    for name, n in types.items():
        before = named.get(now := new.get(name, name), 0)
        named[now] = None if n is None or before is None else before + n
    return named


def _sizes(answer: Arrays) -> tuple[int, ...]:
    cells = tuple(map(int, unpacked_text(answer["cells"])))
    if len(cells) != len(ROLES) or not all(0 <= n <= MOST_CELLS for n in cells):
        raise ValueError("numbers of cells that no site has")
    return cells


def _about(answer: Arrays) -> tuple[str, tuple[dict[str, int | None], dict[str, set[str]]]]:
    """The hash of genes, and the types by their numbers of cells and by their ids."""
    about = unpacked_text(answer["about"])
    types = {str(name): None if n is None else int(n) for name, n in about["types"].items()}
    if not all(n is None or 0 <= n <= MOST_CELLS for n in types.values()):
        raise ValueError("numbers of cells that no site has")
    return str(about["genes"]), (types, {str(name): set(map(str, of)) for name, of in about["ids"].items()})


def _names(answer: Arrays) -> GeneNames:
    named = unpacked_text(answer["names"])
    ids, symbols = (named[of] and np.array([*map(str, named[of])], dtype=object) for of in ("ids", "symbols"))
    if not (ids is None or symbols is None or len(ids) == len(symbols)):
        raise ValueError("names of other numbers of genes")
    return GeneNames(ids, symbols)


def _list(names: np.ndarray | None) -> list[str] | None:
    return None if names is None else names.tolist()


def agreed_sha256(types: Sequence[str], preparation: str, settings: Mapping[str, Any]) -> str:
    """The hash of all that sites agree on: the cell types, the preparation (``Preparation.key``), and the settings."""
    text = json.dumps([list(types), preparation, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
