"""Cell types that are kinds of others, by the part of the Cell Ontology that the package has."""

import gzip
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources

from scfl_green.errors import listed

Broad = Mapping[str, tuple[str, ...]]


def broader(sites: Sequence[Mapping[str, int | None]], ids: Mapping[str, str | None]) -> tuple[Broad, list[str]]:
    """Types that stand for several types of other sites, each with those, and notes; given each site's cells by type,
    and the Cell Ontology id of each type.

    A site that tells a kind of a type apart from it, as "T cell" beside "CD8 T cell", means the others by it, so that
    it stays a type; and so does one of which there is a single kind.
    """
    found, notes = {}, []
    for name, one in ids.items():
        kinds = {other for other, its in ids.items() if one and its and one in _ancestors(its)}
        kinds = {other for other in kinds if any(other in site for site in sites)}
        if not kinds or any(name in site and kinds & site.keys() for site in sites):
            continue
        if len(kinds) > 1:
            found[name] = tuple(sorted(kinds))
        else:
            notes.append(
                f"cell types: {kinds.pop()!r} of one file is a kind of {name!r} of another, and both are types"
            )
    broad = {name: tuple(kind for kind in kinds if kind not in found) for name, kinds in found.items()}
    notes += [f"cell types: a {name!r} may be any of {listed(kinds)}" for name, kinds in broad.items()]
    return broad, notes


@cache
def _ancestors(identity: str) -> frozenset[str]:
    """All types that one is a kind of."""
    above = _parents().get(identity, ())
    return frozenset(above).union(*(_ancestors(one) for one in above))


@cache
def _parents() -> dict[str, tuple[str, ...]]:
    """The types that each is a kind of, one step up."""
    return {one: tuple(above) for one, *above in _lines()}


def _lines() -> Iterator[list[str]]:
    packed = (resources.files("scfl_green.data") / "packaged" / "cell_ontology.txt.gz").read_bytes()
    for line in gzip.decompress(packed).decode().splitlines()[1:]:
        yield [f"CL:{number}" for number in line.split()]
