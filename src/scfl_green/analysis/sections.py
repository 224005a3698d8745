"""The tables of a report; empty ones are left out."""

from pathlib import Path

import pandas as pd

from scfl_green.analysis import published, tables
from scfl_green.analysis.federating import federating
from scfl_green.analysis.joining import gained
from scfl_green.analysis.network import compare_networks
from scfl_green.analysis.results import SCORES, axes, estimated, method, varied
from scfl_green.analysis.undecided import told

Section = tuple[str, str, str, pd.DataFrame]
HEADS = {
    "accuracy": "accuracy",
    "weighted_f1": "weighted F1",
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "calibration_error": "calibration error",
    "emissions_g": "emissions (mg CO2e)",
    "energy_wh": "energy (mWh)",
    "eaps_cpu": "EAPS without RAM (F1 per kg CO2e)",
    "eaps": "EAPS (F1 per kg CO2e)",
    "eaps_training": "EAPS without transfer (F1 per kg CO2e)",
    "emissions_g_per_model": "emissions (mg CO2e per trained model)",
    "emissions_g_per_1000_cells": "emissions (µg CO2e per 1,000 annotated cells)",
    "seconds_fit": "training (s)",
}
# What Optuna's sweeper leaves.
FOUND = "optimization_results.yaml"
FACTORS = {"emissions_g": 1e3, "energy_wh": 1e3, "emissions_g_per_model": 1e3, "emissions_g_per_1000_cells": 1e6}
NOTE = (
    "EAPS is weighted F1 per kg CO2e. Ratios are geometric means over runs with the same seed, with Student's 95% "
    "interval; p-values are adjusted for all ratios of the table (Holm). A winner is named only where it differs from "
    "every other, else all that tie are; equal are those shown to differ by less than 5%. Detectable: the ratio that "
    "so many seeds, spread like these, find in 80% of cases, adjusted for the comparisons that are left. A winner is "
    "robust if it wins whatever a gigabyte takes. "
)


def sections(folder: Path, results: pd.DataFrame) -> list[Section]:
    """All tables of a sweep or a run that say something."""
    trained = results[results["regime"] != "finetune"]
    several = "Mean over runs; ±: standard deviation." if results["seed"].nunique() > 1 else ""
    found = [("methods", "All methods", several, _means(results))]
    for over in axes(trained):
        against = ", against baseline" if over == "opt" else ""
        rows = compare_networks(trained, over, "baseline" if over == "opt" else None)
        note = NOTE + told(results, over)
        found.append((f"compare_{over}".replace(".", "_"), f"EAPS by {over}{against}", note, rows))
    found += _published(trained)
    if "scratch_accuracy" in results:
        note = (
            "At a newcomer, means over runs; untouched: the model before fine-tuning; to target: when the F1 on "
            "validation cells that both reach was first reached, at epoch 0 by the untouched model."
        )
        found.append(("finetuning", "Fine-tuning and training from scratch", note, _finetuning(results)))
    found += _regimes(folder, results)
    if (folder / FOUND).exists():
        note = (
            "By weighted F1 on validation cells, which choose, and emissions: each beats all others in one of the two."
        )
        found.append(("front", "Settings that none beats", note, _front(results)))
    note = "AUC .5: nothing leaks to this attack."
    found.append(("leakage", "Training cells told by their loss", note, tables.leakage(folder, results)))
    return [(name, title, note, _without_constants(rows)) for name, title, note, rows in found if not rows.empty]


def _regimes(folder: Path, results: pd.DataFrame) -> list[Section]:
    """Each site alone, beside the others, the federation and central training."""
    found = []
    if "elsewhere_accuracy" in results:
        note = "Means over runs: on each site's own test cells, and on those of all other sites."
        found.append(("elsewhere", "Each site alone, at home and elsewhere", note, _elsewhere(results)))
    note = "Means over seeds; the rounds are the median over seeds, to so much of central accuracy on validation cells."
    found.append(("federating", "What federating buys", note, federating(folder, results)))
    note = "On each site's own test cells: the model that it trains alone, and what the federation's model does better."
    return [*found, ("joining", "What each site gains by joining", note, gained(folder, results))]


def _means(results: pd.DataFrame) -> pd.DataFrame:
    """Scores, emissions and energy of every method, with standard deviations of what is compared."""
    summary = tables.summarise(results)
    rows = summary[[*method(results), "runs"]].copy()
    for measure, head in HEADS.items():
        if measure in _repeated(results) or summary[f"{measure}_mean"].isna().all():
            continue
        factor = FACTORS.get(measure, 1)
        rows[head] = summary[f"{measure}_mean"] * factor
        if measure in (*SCORES, "emissions_g") and (summary["runs"] > 1).any():
            rows[f"± {head}"] = summary[f"{measure}_std"] * factor
    return rows


def _repeated(results: pd.DataFrame) -> list[str]:
    """Measures that would say nothing new."""
    several = (results["regime"] == "local").any()
    return ([] if estimated(results) else ["eaps_cpu"]) + ([] if several else ["emissions_g_per_model"])


def _published(trained: pd.DataFrame) -> list[Section]:
    """The study's values beside ours, where the datasets are the study's."""
    known = trained[trained["data"].isin(published.PUBLISHED_AS)]
    if known.empty or varied(known):
        return []
    found = [("published", "The published values beside ours", "", published.beside_published(known))]
    if known["opt"].nunique() > 1 and known["model"].nunique() > 1:
        title = "Winners by EAPS of training alone, beside the study's"
        note = "The study counted no transfer."
        found.append(("published_winners", title, note, published.winners_beside_published(known)))
    return found


def _finetuning(results: pd.DataFrame) -> pd.DataFrame:
    tuned = results[results["regime"] == "finetune"]
    columns = ["untouched_accuracy", "accuracy", "scratch_accuracy", "emissions_kg"]
    columns = [*results.columns.intersection(columns), *results.filter(like="_to_target").columns]
    columns += ["pretraining_emissions_kg", "newcomers_to_pay_back"]
    means = tuned.groupby("model")[columns].mean().reset_index()
    for column in means.columns:
        if "_kg" in column or "_kwh" in column:
            means[column] *= 1e6
    heads = {c: c.replace("_kg", " (mg CO2e)").replace("_kwh", " (mWh)").replace("_", " ") for c in means.columns}
    return means.rename(columns=heads)


def _front(results: pd.DataFrame) -> pd.DataFrame:
    if (rows := tables.front(results)).empty:
        return rows
    heads = {"validation_weighted_f1": "weighted F1 (validation)", "weighted_f1": "weighted F1 (test)"}
    return rows.assign(emissions_g=rows["emissions_g"] * FACTORS["emissions_g"]).rename(columns=HEADS | heads)


def _elsewhere(results: pd.DataFrame) -> pd.DataFrame:
    """Scores of the models of single sites at their own and at the other sites."""
    columns = [column for score in SCORES for column in (score, f"elsewhere_{score}")]
    means = results.dropna(subset="elsewhere_accuracy").groupby(method(results))[columns].mean().reset_index()
    heads = {f"elsewhere_{score}": f"{HEADS[score]} elsewhere" for score in SCORES}
    return means.rename(columns=HEADS | heads)


def _without_constants(rows: pd.DataFrame) -> pd.DataFrame:
    """Without the columns of what was run that are the same in every row, where that leaves some."""
    same = [c for c in ("data", "regime", "opt", "model") if c in rows and rows[c].nunique() == 1 and len(rows) > 1]
    return rows.drop(columns=same) if len(same) < len(rows.columns) else rows
