"""What federating buys: the scores of each site alone, of the federation and of central training, side by side."""

from pathlib import Path

import numpy as np
import pandas as pd

from scfl_green.analysis.results import method
from scfl_green.analysis.tables import summarise

REGIMES = {"local": "alone", "federated": "federated", "central": "central"}
NEAR = 0.99  # of the accuracy of central training
ACCURACY = "validation/accuracy"


def federating(folder: Path, results: pd.DataFrame) -> pd.DataFrame:
    """A row a method: its macro F1 in each regime, a mean over seeds with Student's interval, and what the federation
    sent, emitted and needed; empty unless there are federations beside another regime.

    Rounds to 99% of central: the first round that has so much of the accuracy that central training with the same seed
    ends with, both on validation cells; the median over seeds, of which those that never get there count as later than
    any.
    """
    found = results[results["regime"].isin([*REGIMES])]
    if found["regime"].nunique() < 2 or "federated" not in set(found["regime"]):
        return pd.DataFrame()
    keys = [column for column in method(results) if column != "regime"]
    summary = {regime: table.set_index(keys) for regime, table in summarise(found).groupby("regime")}
    rows: dict[str, pd.Series] = {}
    for regime, named in REGIMES.items():
        if regime in summary:
            rows[f"macro F1 {named}"] = summary[regime]["macro_f1_mean"]
            rows[f"95% interval {named}"] = summary[regime].apply(_interval, axis="columns")
    federated = found[found["regime"] == "federated"].groupby(keys)
    rows["MB"] = (federated["bytes_up"].mean() + federated["bytes_down"].mean()) / 1e6
    rows |= {"mg CO2e": federated["emissions_g"].mean() * 1e3, "EAPS": federated["eaps"].mean()}
    rows[f"rounds to {NEAR:.0%} of central"] = _rounds(folder, found, keys)
    return pd.DataFrame(rows).dropna(axis="columns", how="all").reset_index()


def _interval(row: pd.Series) -> str | None:
    return f"{row['macro_f1_low']:.3f}–{row['macro_f1_high']:.3f}" if row["runs"] > 1 else None


def _rounds(folder: Path, found: pd.DataFrame, keys: list[str]) -> pd.Series:
    """The rounds to ``NEAR`` of central training, by method."""
    runs = {regime: found[found["regime"] == regime] for regime in ("federated", "central")}
    pairs = runs["federated"].merge(runs["central"], on=[*keys, "seed"], suffixes=("", "_central"))
    needed = []
    for _, pair in pairs.iterrows():
        goal = NEAR * _accuracy(folder / pair["folder_central"]).get(pair["best_step_central"], np.nan)
        by_round = _accuracy(folder / pair["folder"])
        needed.append(by_round.index[by_round >= goal].min() if (by_round >= goal).any() else np.inf)
    return pairs.assign(needed=needed).groupby(keys)["needed"].median().replace(np.inf, np.nan)


def _accuracy(run: Path) -> pd.Series:
    """The accuracy on validation cells of a run, by its rounds or epochs; none of one that had nothing to validate."""
    table = pd.read_csv(run / "metrics.csv")
    return table.set_index(table.columns[0]).reindex(columns=[ACCURACY])[ACCURACY].dropna()
