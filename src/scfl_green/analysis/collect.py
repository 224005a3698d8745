"""A sweep's records -> results.csv: scfl-green collect FOLDER"""

import json
from pathlib import Path

import pandas as pd

from scfl_green.files import write_atomically


def collect(folder: Path) -> pd.DataFrame:
    """Write ``results.csv``: the record of every finished run in the folders below, a row each."""
    paths = sorted(folder.glob("*/result.json"))
    results = pd.DataFrame([json.loads(path.read_text()) | {"folder": path.parent.name} for path in paths])
    if len(results):
        results["versions"] = results["versions"].map(json.dumps)
        write_atomically(folder / "results.csv", results.to_csv(index=False).encode())
    return results
