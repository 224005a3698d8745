"""A sweep's records -> results.csv: scfl-green collect FOLDER"""

import json
from pathlib import Path

import pandas as pd

from scfl_green.analysis.varied import varied_settings
from scfl_green.files import write_atomically

SEEDS = "seeds.json"


def collect(folder: Path) -> pd.DataFrame:
    """Write ``results.csv``: the record of every finished run in the folders below, a row each.

    Every setting that differs among the runs is a column, between ``split`` and ``seed``; the last two, ``seeds`` and
    ``max_seeds``, are those of a sweep that adds seeds. A folder that is a run itself gives its one row.
    """
    # Within a run, other records are those of earlier configurations.
    paths = sorted(folder.glob("result.json")) or sorted(folder.glob("*/result.json"))
    rows = [json.loads(path.read_text()) | {"folder": str(path.parent.relative_to(folder))} for path in paths]
    results = pd.DataFrame(rows)
    if rows:
        for field in results.columns.intersection(["versions", "countries"]):
            results[field] = results[field].map(json.dumps, na_action="ignore")
        settings = varied_settings([path.parent for path in paths])
        for place, (key, values) in enumerate(settings.items(), start=list(results.columns).index("split") + 1):
            results.insert(place, key, values, allow_duplicates=False)
        results = results.assign(**allowed_seeds(folder))
        write_atomically(folder / "results.csv", results.to_csv(index=False).encode())
    return results


def allow_seeds(folder: Path, seeds: int, max_seeds: int) -> None:
    """Note that a sweep may end at any number of seeds between these; what earlier starts allowed stays allowed."""
    before = allowed_seeds(folder) or {"seeds": seeds, "max_seeds": max_seeds}
    allowed = {"seeds": min(seeds, before["seeds"]), "max_seeds": max(max_seeds, before["max_seeds"])}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / SEEDS, json.dumps(allowed).encode())


def allowed_seeds(folder: Path) -> dict[str, int]:
    """What ``allow_seeds`` noted: ``seeds`` and ``max_seeds``; empty for a sweep that does not add seeds."""
    path = folder / SEEDS
    return json.loads(path.read_text()) if path.exists() else {}
