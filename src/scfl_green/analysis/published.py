"""Results of the published study, beside those measured here."""

from importlib import resources

import pandas as pd

from scfl_green.analysis.results import METHOD
from scfl_green.analysis.tables import compare

# What the study calls the datasets that ours are.
PUBLISHED_AS = {"dataset_a": "A", "dataset_b": "B", "dataset_b_ranked": "B", "dataset_c": "C", "dataset_d": "D"}


def published() -> pd.DataFrame:
    """The study's own results, one run each: dataset (A-D), model, regime, opt, accuracy, weighted F1, kg CO2e."""
    place = resources.files("scfl_green.data") / "packaged" / "published_results.csv"
    with resources.as_file(place) as path:
        return pd.read_csv(path).rename(columns={"framework": "model"})


def beside_published(results: pd.DataFrame) -> pd.DataFrame:
    """Accuracy and F1 of ours beside the published ones, where the dataset is the same; empty where none is."""
    ours = results.groupby(METHOD, as_index=False)[["accuracy", "weighted_f1", "emissions_g"]].mean()
    ours["dataset"] = ours["data"].map(PUBLISHED_AS)
    theirs = published().assign(emissions_g=lambda rows: rows.pop("emissions_kg") * 1e3)
    return ours.merge(theirs, on=["dataset", "regime", "model", "opt"], suffixes=("", "_published"))


def winners_beside_published(results: pd.DataFrame) -> pd.DataFrame:
    """For every framework the opt, and for every opt the framework, with the highest EAPS of training alone, since the
    study counted no transfer: ours, with all ties, and the published one, which is not run where the sweep lacks it."""
    rows = []
    theirs = published().assign(eaps=lambda runs: runs["weighted_f1"] / runs["emissions_kg"])
    for over, within in (("opt", "model"), ("model", "opt")):
        table = compare(results, over, measure="eaps_training")
        for place, cell in table[table["best"] != ""].groupby(["data", "regime", within]):
            data, regime, name = map(str, place)
            same = theirs[(theirs["dataset"] == PUBLISHED_AS.get(data)) & (theirs["regime"] == regime)]
            same = same[same[within] == name]
            won = None if same.empty else same.sort_values("eaps")[over].iloc[-1]
            inside = "–" if won is None else "yes" if won in set(cell[over]) else "no"
            if won is not None and won not in set(results[over]):
                inside = "not run"
            ours = ", ".join(cell[over]) + ("" if len(cell) == 1 else " (tie)")
            row = {"data": data, "regime": regime, "of": name, "ours": ours, "published": won or "–"}
            rows.append({**row, "published one is among ours": inside})
    return pd.DataFrame(rows)
