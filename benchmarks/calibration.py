"""Calibration of the four frameworks on the embedded dataset: python -m benchmarks.calibration [--seeds N]

The calibration error on cells of held-out donors, before and after temperature scaling; and how often the conformal
sets hold the true type of test cells that are drawn as the validation cells were. Federations, means over seeds 1 to N.
"""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate

from benchmarks.setting import composed, embedded, quiet
from scfl_green.data.dataset import Dataset
from scfl_green.models.scores import UNIT, calibration_error, prediction_scores, reliability
from scfl_green.runs.assemble import make_job
from scfl_green.runs.names import register_resolvers
from scfl_green.runs.run import metered
from scfl_green.runs.scoring import calibrated

MODELS = ("actinn", "scdlc", "sccdcg", "scsmd")
COVERAGE = 0.9


def measured(dataset: Dataset, *overrides: str) -> dict[str, Any]:
    """The scores of one federation on its test cells."""
    cfg = composed(*overrides)
    torch.manual_seed(cfg.seed)
    with metered(cfg) as meter:
        job = make_job(cfg, dataset, None, meter)
        (trained,) = calibrated(job, instantiate(cfg.regime, _convert_="all")(job)).models
        rows = np.concatenate([part.test for part in job.split.to_test(trained.parts)])
        logits, labels = job.logits(rows, trained.weights)
    assert trained.calibration is not None
    calibration = trained.calibration
    found: dict[str, Any] = {"accuracy": prediction_scores(logits, labels)["accuracy"]}
    found["temperature"] = calibration.temperature
    for name, scaled in (("before", logits), ("after", logits / calibration.temperature)):
        bins = reliability(scaled, labels)
        found |= {name: calibration_error(bins), f"bins_{name}": json.dumps(bins.tolist())}
    for name, by_type in (("all", False), ("by_type", True)):
        sets = calibration.prediction_sets(calibration.probabilities(logits), COVERAGE, by_type)
        covered = sets.gather(1, labels[:, None])[:, 0].double()
        rarest = min(float(covered[labels == label].mean()) for label in labels.unique())
        found |= {f"covered_{name}": float(covered.mean()), f"worst_{name}": rarest}
        found |= {f"size_{name}": float(sets.sum(dim=1).double().mean())}
    return found


def rows(seeds: int, cache: Path) -> Iterator[dict[str, Any]]:
    for seed in range(1, seeds + 1):
        for test in ("donors", "cells"):
            dataset = embedded(cache, f"split.test={test}", f"seed={seed}")
            for model in MODELS:
                found = measured(dataset, f"split.test={test}", f"seed={seed}", f"model={model}")
                yield {"model": model, "test": test, "seed": seed, **found}


def pooled_errors(of: pd.DataFrame) -> str:
    """The error over the cells of all seeds together, and what chance alone makes of one run of a perfect model: the
    expected distance of each bin's accuracy from its confidence, by the normal approximation."""
    lines = ["| framework | cells | ECE before | ECE after | in one run by chance |", "|---|---|---|---|---|"]
    for model in MODELS:
        chosen = of[of["model"] == model]
        before, after = (
            torch.tensor([json.loads(bins) for bins in chosen[f"bins_{name}"]]) for name in ("before", "after")
        )
        cells, confidence, _ = (after * torch.tensor([1, UNIT, 1], dtype=torch.float64)).unbind(dim=2)
        spread = (confidence * (1 - confidence / cells.clamp_min(1))).sqrt() * (2 / math.pi) ** 0.5
        chance = (spread.sum(dim=1) / cells.sum(dim=1)).mean()
        errors = [calibration_error(sums.sum(dim=0)) for sums in (before, after)]
        lines.append(f"| {model} | {cells.sum():,.0f} | {errors[0]:.3f} | {errors[1]:.3f} | {chance:.3f} |")
    return "\n".join(lines)


def table(of: pd.DataFrame, columns: dict[str, str]) -> str:
    """Mean ± standard deviation over seeds."""
    lines = [f"| framework | {' | '.join(columns.values())} |", "|---" * (1 + len(columns)) + "|"]
    for model in MODELS:
        chosen = of[of["model"] == model]
        cells = [f"{chosen[column].mean():.3f} ± {chosen[column].std():.3f}" for column in columns]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("logs/benchmarks/calibration.csv"))
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    with TemporaryDirectory() as cache:
        for row in rows(arguments.seeds, Path(cache)):
            found.append(row)
            pd.DataFrame(found).to_csv(arguments.out, index=False)  # what is there if this is interrupted
    of = pd.DataFrame(found)
    errors = {"accuracy": "accuracy", "before": "ECE before", "after": "ECE after", "temperature": "temperature"}
    donors, cells = (of[of["test"] == test] for test in ("donors", "cells"))
    for name, tested in (("Held-out donors", donors), ("Test cells", cells)):
        print(f"{name}, {arguments.seeds} seeds\n\n{table(tested, errors)}\n\n{pooled_errors(tested)}\n")
    sets = {"covered_all": "coverage", "size_all": "types in a set", "worst_all": "coverage of the worst type"}
    sets |= {"covered_by_type": "by type: coverage", "size_by_type": "types in a set", "worst_by_type": "worst type"}
    for name, tested in (("Held-out donors", donors), ("Test cells", cells)):
        print(f"{name}, sets of {COVERAGE:.0%}\n\n{table(tested, sets)}\n")


if __name__ == "__main__":
    register_resolvers()
    quiet()
    main()
