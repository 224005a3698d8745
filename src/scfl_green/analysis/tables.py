"""What a sweep says: its runs summed up, methods compared with intervals, beside what the study published."""

from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from scfl_green.analysis.score import CONFIDENCE, ratio, winners

METHOD = ["data", "regime", "model", "opt"]
MEASURES = ["accuracy", "weighted_f1", "emissions_g", "eaps", "eaps_training", "eaps_cpu", "energy_wh", "seconds_fit"]
TOGETHER = "all"  # of privacy.csv, the row of all clients together
# What the study calls the datasets that ours are.
PUBLISHED_AS = {"dataset_a": "A", "dataset_b": "B", "dataset_b_ranked": "B", "dataset_c": "C", "dataset_d": "D"}


def read_results(folder: Path, intensity: float | None = None) -> pd.DataFrame:
    """The runs of a sweep, a row each, with energy and emissions of training and transfer together (Wh, g CO2e).

    ``intensity`` (kg CO2e per kWh) tells what they would have emitted elsewhere.
    """
    # Hashes may be all digits.
    results = pd.read_csv(folder / "results.csv", dtype={"method": str}).sort_values(
        [*METHOD, "seed"], ignore_index=True
    )
    variants = results.reindex(columns=["method"])["method"]
    several = variants.groupby([results[column] for column in METHOD]).transform("nunique") > 1
    # Runs that differ in more than these columns and the seed are no repeats of each other.
    results.loc[several, "data"] += " " + results["split"] + " " + variants.fillna("").str[:4]
    results["energy_wh"] = (results["energy_kwh"] + results["transfer_kwh"]) * 1e3
    results["transfer_wh"] = results["transfer_kwh"] * 1e3
    of_country = results["carbon_intensity_kg_per_kwh"] if intensity is None else intensity
    results["emissions_g"] = results["energy_wh"] * of_country
    for name in results.filter(like="emissions_kg").columns:
        results[name] *= of_country / results["carbon_intensity_kg_per_kwh"]
    results["eaps"] = results["weighted_f1"] / (results["emissions_g"] / 1e3)
    results["eaps_training"] = results["weighted_f1"] / (results["energy_kwh"] * of_country)
    results["eaps_cpu"] = results["weighted_f1"] / (results["energy_cpu_kwh"] * of_country)
    return results


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """``summary.csv``: mean, standard deviation and Student's interval of the mean (``low``, ``high``) of every measure
    for every method, and the number of runs."""
    groups = results.groupby(METHOD)
    summary = groups[MEASURES].agg(["mean", "std"])
    summary.columns = ["_".join(column) for column in summary.columns.to_list()]
    summary.insert(0, "runs", groups.size())
    reach = stats.t.ppf((1 + CONFIDENCE) / 2, summary["runs"] - 1) / np.sqrt(summary["runs"])
    for measure in MEASURES:
        summary[f"{measure}_low"] = summary[f"{measure}_mean"] - reach * summary[f"{measure}_std"]
        summary[f"{measure}_high"] = summary[f"{measure}_mean"] + reach * summary[f"{measure}_std"]
    summary["too_short"] = groups["too_short"].sum()
    return summary.reset_index()


def compare(results: pd.DataFrame, over: str, reference: str | None = None, measure: str = "eaps") -> pd.DataFrame:
    """EAPS (or another ``measure``) of the methods that differ in ``over`` (``opt`` or ``model``), a row each.

    Ratios are to ``reference`` (or to the method with the highest mean), paired by seed, with their intervals;
    ``best`` marks the winner, or all that tie with it.
    """
    others = [column for column in METHOD if column != over]
    rows = []
    for place, runs in results.groupby(others):
        scores = runs.pivot(index="seed", columns=over, values=measure).dropna()
        if scores.empty:
            continue
        best = winners({str(name): scores[name].to_list() for name in scores})
        base = reference if reference in scores else scores.mean().idxmax()
        for name in scores:
            against = ratio(scores[name].to_list(), scores[base].to_list())
            known = len(scores) > 2 and name != base
            rows.append(
                dict(zip(others, place, strict=True))
                | {
                    over: name,
                    "EAPS": scores[name].mean(),
                    f"ratio to {base if reference else 'the highest'}": against.estimate,
                    f"{CONFIDENCE:.0%} interval": f"{against.low:.2f}–{against.high:.2f}" if known else "",
                    "best": "" if name not in best else "wins" if len(best) == 1 else "ties",
                    "runs": len(scores),
                }
            )
    return pd.DataFrame(rows)


def leakage(folder: Path, results: pd.DataFrame) -> pd.DataFrame:
    """Of the runs that ``python -m scfl_green.analysis.leakage`` looked at, a row each: the AUC of telling training
    cells by their loss for all clients together, and for the client where it is highest; empty where there is none."""
    rows = []
    for _, run in results.iterrows():
        if not (path := folder / run["folder"] / "privacy.csv").exists():
            continue
        table = pd.read_csv(path, dtype={"client": str}, keep_default_na=False)
        together, clients = table[table["client"] == TOGETHER].iloc[-1], table.iloc[:-1]
        worst = clients.iloc[int(clients["auc"].to_numpy().argmax())]
        found = {"AUC": together["auc"], "95% interval": f"{together['auc_low']:.3f}–{together['auc_high']:.3f}"}
        found |= {"TPR at 1% FPR": together["tpr_at_1pct_fpr"], "highest": f"{worst['client']} ({worst['auc']:.3f})"}
        rows.append({column: run[column] for column in [*METHOD, "seed"]} | found)
    return pd.DataFrame(rows)


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
    study counted no transfer: ours, with all ties, and the published one."""
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
            ours = ", ".join(cell[over]) + ("" if len(cell) == 1 else " (tie)")
            row = {"data": data, "regime": regime, "of": name, "ours": ours, "published": won or "–"}
            rows.append({**row, "published one is among ours": inside})
    return pd.DataFrame(rows)
