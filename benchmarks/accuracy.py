"""Accuracy of the four frameworks beside a logistic regression on the same features and the published number.

python train.py experiment=grid seeds=5 && python -m benchmarks.accuracy logs/sweeps/grid_pancreas
"""

import importlib.util
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from hydra.utils import instantiate

from benchmarks.setting import composed
from scfl_green.data.partition import Part
from scfl_green.runs.assemble import load_dataset

# Federated baseline accuracies of the study, one run each.
PUBLISHED = {
    "dataset_b_ranked": {"actinn": 0.741, "scdlc": 0.865, "sccdcg": 0.953, "scsmd": 0.771},
    "dataset_c": {"actinn": 0.537, "scdlc": 0.970, "sccdcg": 0.974, "scsmd": 0.981},
}


def logistic_regression(data: str, split: str, seed: int) -> float:
    """Its accuracy on the test cells, fitted to the pooled training cells' features; no energy is spent on tuning."""
    from sklearn.linear_model import LogisticRegression

    cfg = composed(f"data={data}", f"split={split}", f"seed={seed}", "regime=central")
    dataset = load_dataset(cfg, instantiate(cfg.data.source, _convert_="all"), None, None)
    pooled = Part.pooled(list(dataset.split.clients.values()))
    tested = Part.pooled(dataset.split.to_test([pooled]))
    x, y = dataset.features[pooled.train]
    classifier = LogisticRegression(max_iter=300).fit(x.numpy(), y.numpy())
    x, y = dataset.features[tested.test]
    return float(classifier.score(x.numpy(), y.numpy()))


def main(folder: Path) -> None:
    warnings.filterwarnings("ignore", category=UserWarning)
    results = pd.read_csv(folder / "results.csv").query("opt == 'baseline'")
    data, split = results["data"].iloc[0], results["split"].iloc[0]
    seeds = sorted(results["seed"].unique())
    reference = np.array([logistic_regression(data, split, int(seed)) for seed in seeds])
    table = results.pivot_table(index="model", columns="regime", values="accuracy", aggfunc=["mean", "std"])
    print(f"{data}, {len(seeds)} seeds: mean ± standard deviation; {results['cells_test'].iloc[0]} test cells\n")
    print("| | federated | central | published, federated |")
    print("|---|---|---|---|")
    for model in table.index:
        cells = [f"{table['mean', r][model]:.3f} ± {table['std', r][model]:.3f}" for r in ("federated", "central")]
        published = PUBLISHED.get(data, {}).get(model)
        print(f"| {model} | {' | '.join(cells)} | {published or '–'} |")
    print(f"| logistic regression | – | {reference.mean():.3f} ± {reference.std(ddof=1):.3f} | – |")


if __name__ == "__main__":
    if importlib.util.find_spec("sklearn") is None:
        sys.exit("error: the reference is scikit-learn's: pip install -c constraints.txt -e '.[benchmarks]'")
    main(Path(sys.argv[1]))
