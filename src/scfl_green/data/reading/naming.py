"""Names of cell types that stand for none, and names of one cell type at several sites."""

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from scfl_green.errors import InputError, listed, nearest

# How programs and people write a missing value.
BLANK = ("", "nan", "none", "null", "na", "n/a", "#n/a", "<na>", "nat", "n.a.", "-", "--", "?", ".", "not available")
# What annotators write for cells that have no type, without spaces and punctuation.
NO_TYPE = re.compile(
    r"(un(known|assigned|labell?ed|classified|defined|determined|identified|annotated|certain|resolved|sure)"
    r"|not?(assigned|annotated|type|label|match)|undet|unk|ambiguous|heterogeneous|doublets?|multiplets?|tbd"
    r"|low(quality|qc?)|poorquality|debris|empty(drop(let)?s?)?|artefacts?|artifacts?|missing|negative|other)"
    r"(cells?|types?|celltypes?)?\d*"
)
PLAIN = re.compile(r"[A-Za-z][\w .+-]*")  # needs no quotes in a list of Hydra's


def without_name(counted: Mapping[str, int], what: str, setting: str) -> list[str]:
    """A note on the names of ``what`` (cell types or clients), with their numbers of cells, that stand for none, if
    there are any, and the ``setting`` that leaves them out."""
    names = [name for name in counted if NO_TYPE.fullmatch(re.sub(r"[\W_]+", "", name.casefold()))]
    if not names:
        return []
    told = listed(f"{name} ({counted[name]} cells)" for name in names)
    quoted = ",".join(name if PLAIN.fullmatch(name) else json.dumps(name, ensure_ascii=False) for name in names)
    return [f"{what} that seem to be none, and are trained as any other: {told}; leave them out with "
            f"'{setting}=[{quoted}]'"]  # fmt: skip


def check_dropped(drop: Iterable[str], names: Iterable[str], setting: str) -> None:
    """InputError for names to leave out that no cell has."""
    for name in sorted(set(drop) - (known := set(names))):
        advice = nearest(name, known) or f"there are {listed(sorted(known))}"
        raise InputError(f"{setting}: no cell is of {name!r}; {advice}")


def one_name_each(
    told: Sequence[Mapping[str, int | None]], ids: Sequence[Mapping[str, set[str]]]
) -> tuple[dict[str, str], list[str]]:
    """New names of types of several sites with the same Cell Ontology id, that which most cells have, given each site's
    cells by type (None: a number that it does not tell), and a note. Several types of one site may share a more general
    id, and keep their names."""
    all_ids: dict[str, set[str]] = defaultdict(set)
    by_id: dict[str, list[set[str]]] = defaultdict(list)
    for found in ids:
        for name, of_type in found.items():
            all_ids[name] |= of_type
        for identity in set().union(*found.values()):
            by_id[identity].append({name for name, of_type in found.items() if identity in of_type})
    counted = Counter[str]()
    for of_site in told:
        counted.update({name: n or 1 for name, n in of_site.items()})
    new: dict[str, str] = {}
    for names in by_id.values():
        same = sorted(set().union(*names))
        if len(same) > 1 and max(map(len, names)) == 1 and all(len(all_ids[name]) == 1 for name in same):
            best = max(same, key=lambda name: counted[name])
            new |= {name: best for name in same if name != best}
    note = listed(f"{old!r} is {name!r} ({min(all_ids[old])})" for old, name in new.items())
    return new, [f"cell types with the same Cell Ontology id: {note}"] if new else []


def nearly_alike(types: Iterable[str]) -> list[str]:
    """A note on types whose names differ in punctuation or a plural alone, if there are any; a sign at the end of
    a word tells types apart, as in CD4+ and CD4-."""
    spelt = defaultdict(list)
    for name in types:
        singular = re.sub(r"(?<=[^\W\d_s])s\b", "", unicodedata.normalize("NFKC", name).casefold())
        spelt[re.sub(r"[\s_./,()]+(?=\w)|-(?=\w)", "", singular)].append(name)
    alike = [" and ".join(map(repr, names)) for names in spelt.values() if len(names) > 1]
    return [f"cell types that may be one: {listed(alike)}; give them one name"] if alike else []
