"""carbon_aware against FedAvg, on the embedded dataset with a country for each site; then waiting for cleaner hours.

python -m benchmarks.carbon_aware [SEEDS]
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.measure import ROOT, process

SITES = "Fasolino et al. 2022: DEU, Muraro et al. 2016: FRA, Tosti et al. 2021: POL, Tritschler et al. 2022: SWE"
# A made-up day of g CO2e/kWh: sun at noon, coal in the evening.
HOURS = np.arange(24)
DAY = np.round(380 - 170 * np.exp(-(((HOURS - 12) / 3.5) ** 2)) + 60 * np.exp(-(((HOURS - 20) / 3) ** 2)))
AT, SLACK_HOURS = 18, 24


def record(federation: str, seed: int, *overrides: str) -> dict[str, float]:
    """The record of one run."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = [f"federation={federation}", f"seed={seed}", "logger=none", f"paths.logs={folder}"]
        process(str(ROOT / "train.py"), *chosen, *overrides)
        (path,) = Path(folder).glob("runs/*/result.json")
        return json.loads(path.read_text()) | {"federation": federation}


def where(seeds: int) -> str:
    countries = f"carbon.countries={{{SITES}}}"
    records = [record(name, s, countries) for name in ("fedavg", "carbon_aware") for s in range(1, seeds + 1)]
    both = pd.DataFrame(records).pivot(index="seed", columns="federation")
    f1, grams = both["weighted_f1"], both["emissions_g_per_model"]
    less, change = 1 - grams["carbon_aware"] / grams["fedavg"], f1["carbon_aware"] - f1["fedavg"]
    return (
        f"grams {grams['fedavg'].mean():.4f} and {grams['carbon_aware'].mean():.4f}: {less.mean():.1%} less "
        f"({less.min():.1%} to {less.max():.1%}); weighted F1 {f1['fedavg'].mean():.3f} and "
        f"{f1['carbon_aware'].mean():.3f}: {change.mean():+.3f} ({change.min():+.3f} to {change.max():+.3f})"
    )


def when() -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
        pd.DataFrame({"hour": HOURS, "g_per_kwh": DAY}).to_csv(file.name, index=False)
        hours = [f"carbon.intensity={file.name}", f"carbon.start=2024-06-01T{AT}:30Z"]
        waited = record("carbon_aware", 1, *hours, f"federation.strategy.slack_hours={SLACK_HOURS}")
    return (
        f"{SLACK_HOURS} h of slack from {AT}:30: waited {waited['waited_hours']:.1f} h; training at "
        f"{waited['carbon_intensity_kg_per_kwh'] * 1e3:.0f} g/kWh, where {AT}:30 has {DAY[AT]:.0f} and the best hour "
        f"{DAY.min():.0f}"
    )


if __name__ == "__main__":
    print("a country by site:", where(int(sys.argv[1]) if len(sys.argv) > 1 else 3))
    print("hours:", when())
