"""A sweep's records -> results.csv: scfl-green collect FOLDER"""

import json
from pathlib import Path

import pandas as pd

from scfl_green.analysis.varied import varied_settings
from scfl_green.files import write_atomically


def collect(folder: Path) -> pd.DataFrame:
    """Write ``results.csv``: the record of every finished run in the folders below, a row each.

    Every setting that differs among the runs is a column, between ``split`` and ``seed``. A folder that is a run itself
    gives its one row.
    """
    paths = sorted(folder.glob("*/result.json")) or sorted(folder.glob("result.json"))
    rows = [json.loads(path.read_text()) | {"folder": str(path.parent.relative_to(folder))} for path in paths]
    results = pd.DataFrame(rows)
    if rows:
        results["versions"] = results["versions"].map(json.dumps)
        settings = varied_settings([path.parent for path in paths])
        for place, (key, values) in enumerate(settings.items(), start=list(results.columns).index("split") + 1):
            results.insert(place, key, values, allow_duplicates=False)
        write_atomically(folder / "results.csv", results.to_csv(index=False).encode())
    return results
