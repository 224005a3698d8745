"""The figures of a sweep; the one of its headline comes first."""

from pathlib import Path

import pandas as pd

from scfl_green.analysis.draw_methods import draw_front, draw_opts, draw_ratios, draw_regimes, draw_settings
from scfl_green.analysis.draw_runs import (
    draw_calibration,
    draw_curves,
    draw_energy,
    draw_finetuning,
    draw_sites,
    draw_types,
)
from scfl_green.analysis.drawing import Drawing, Runs

METHODS = (draw_finetuning, draw_ratios, draw_regimes, draw_sites, draw_opts, draw_settings, draw_front)
WITHIN = (draw_energy, draw_curves, draw_types, draw_calibration)


def drawings(folder: Path, results: pd.DataFrame) -> list[Drawing]:
    """All figures of a sweep, in order."""
    found: list[Drawing] = []
    sweep, several = folder.resolve().name, results["data"].nunique() > 1
    for data, runs in results.groupby("data"):
        of_data = Runs(folder, str(data), runs, f"{sweep}_{data}" if several else sweep)
        for kind in (*METHODS, *WITHIN):
            found += kind(of_data)
    return found
