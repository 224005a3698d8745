"""What each site gains by joining: its scores in the federation against those of the model that it trains alone."""

from pathlib import Path

import pandas as pd

from scfl_green.analysis.results import varied

SCORES = {"accuracy": "accuracy", "macro_f1": "macro F1"}
ALONE, TOGETHER = "local", "federated"


def gained(folder: Path, results: pd.DataFrame) -> pd.DataFrame:
    """A row a site and way of training: scores on its own test cells alone, and what federating adds, in points, as
    means over the seeds that have both (standard deviation of the difference); empty without both regimes."""
    of_sites = [
        table.assign(regime=run["regime"], seed=run["seed"], method=_named(run, varied(results)))
        for _, run in results[results["regime"].isin([ALONE, TOGETHER])].iterrows()
        if len(table := _sites(folder / str(run["folder"])))
    ]
    if not of_sites:
        return pd.DataFrame()
    whole = pd.concat(of_sites).pivot_table(index=["method", "site", "seed"], columns="regime", values=[*SCORES])
    if not {ALONE, TOGETHER} <= set(whole.columns.get_level_values("regime")):
        return pd.DataFrame()
    rows: dict[str, pd.Series] = {}
    for score, head in SCORES.items():
        both = whole[score].dropna()
        gain = ((both[TOGETHER] - both[ALONE]) * 100).groupby(["method", "site"], sort=False)
        rows |= {
            f"{head} alone": both[ALONE].groupby(["method", "site"]).mean(),
            f"{head}, gain in points": gain.mean(),
        }
        if both.groupby(["method", "site"]).size().max() > 1:
            rows[f"± {head}, gain"] = gain.std()
    return pd.DataFrame(rows).reset_index()


def _sites(run: Path) -> pd.DataFrame:
    """The scores of a run by site; none of a run of an earlier version."""
    path = run / "sites.csv"
    return pd.read_csv(path, usecols=["site", *SCORES]) if path.exists() else pd.DataFrame()


def _named(run: pd.Series, settings: list[str]) -> str:
    return " · ".join(str(run[of]) for of in ("model", "opt", *settings) if run[of] != "none")
