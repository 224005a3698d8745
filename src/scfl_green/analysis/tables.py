"""Tables of a sweep: summaries of its runs, and methods compared with intervals."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from scfl_green.analysis.results import MEASURES, looks, method
from scfl_green.analysis.score import CONFIDENCE, FEWEST, detectable, equality, found, holm, pareto, ratio, ties

TOGETHER = "all"  # of privacy.csv, the row of all clients together


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """``summary.csv``: mean, standard deviation and Student's interval of the mean (``low``, ``high``) of every measure
    for every method, and the number of runs. Intervals hold for every look of the sweep together."""
    groups = results.groupby(method(results))
    summary = groups[MEASURES].agg(["mean", "std"])
    summary.columns = ["_".join(column) for column in summary.columns.to_list()]
    summary.insert(0, "runs", groups.size())
    reach = stats.t.isf((1 - CONFIDENCE) / 2 / looks(results), summary["runs"] - 1) / np.sqrt(summary["runs"])
    for measure in MEASURES:
        summary[f"{measure}_low"] = summary[f"{measure}_mean"] - reach * summary[f"{measure}_std"]
        summary[f"{measure}_high"] = summary[f"{measure}_mean"] + reach * summary[f"{measure}_std"]
    summary["too_short"] = groups["too_short"].sum()
    return summary.reset_index()


def compare(results: pd.DataFrame, over: str, reference: str | None = None, measure: str = "eaps") -> pd.DataFrame:
    """EAPS (or another ``measure``) of the methods that differ in ``over`` (a column of ``method``), a row each.

    Ratios are to ``reference`` (or to the method with the highest mean), paired by seed, with their intervals, p-values
    (Holm, over all ratios of the table) and what as many seeds could detect beside what was found. ``best`` marks the
    highest: one ``wins``, since it differs from every other; or some are ``equal``, practically, and differ from every
    other; or there are ``ties``, which nothing decides. All of it holds for every look of the sweep together.
    """
    others = [column for column in method(results) if column != over]
    rows = []
    for cell, (place, runs) in enumerate(results.groupby(others)):
        scores = runs.pivot(index="seed", columns=over, values=measure).dropna()
        if len(scores) == 0 or len(scores.columns) < 2:
            continue
        by_name = {name: scores[name].to_list() for name in scores}
        best, as_high = ties(by_name, looks(results))
        base = reference if reference in by_name else best
        for name, values in by_name.items():
            row = dict(zip(others, place, strict=True)) | {over: name, "EAPS": scores[name].mean()}
            row |= _against(values, by_name[base] if name != base else None, looks(results))
            equal = equality(by_name[best], values, looks(results)) if name != best else None
            rows.append(row | {"cell": cell, "as_high": as_high.get(name), "equal": equal})
    return _marked(pd.DataFrame(rows), looks(results)).rename(
        columns={"ratio": f"ratio to {reference or 'the highest'}"}
    )


def _against(values: list[float], base: list[float] | None, looks: int) -> dict[str, Any]:
    """The columns that compare a method with the one of reference, or that one with itself."""
    against = ratio(values, base or values, looks)
    known = base is not None and len(values) >= FEWEST
    return {
        "ratio": against.estimate,
        f"{CONFIDENCE:.0%} interval": f"{against.low:.2f}–{against.high:.2f}" if known else "",
        "p (Holm)": against.p if known else np.nan,
        "detectable ratio": partial(detectable, values, base or []) if known else None,
        "runs": len(values),
    }


def _marked(table: pd.DataFrame, looks: int) -> pd.DataFrame:
    """The table with its p-values adjusted, and ``best``."""
    if table.empty:
        return table
    for column in ("p (Holm)", "as_high", "equal"):
        table[column] = table[column].astype(float)
        known = table[column].notna()
        table.loc[known, column] = holm(table.loc[known, column].to_list())
    # Holm's next step: the comparisons that are left.
    left = max(1, int((~found(table["p (Holm)"].dropna())).sum()))
    table["detectable ratio"] = [ask(left * looks) if ask else np.nan for ask in table["detectable ratio"]]
    tied = table["as_high"].notna() & ~found(table["as_high"])
    among, cells = table["as_high"].isna() | tied, table["cell"]
    alone = ~tied.groupby(cells).transform("any")
    undecided = (tied & ~found(table["equal"])).groupby(cells).transform("any")
    table["best"] = np.select([among & undecided, among & alone, among], ["ties", "wins", "equal"], "")
    return table.drop(columns=["cell", "as_high", "equal"])


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
        rows.append({column: run[column] for column in [*method(results), "seed"]} | found)
    return pd.DataFrame(rows)


def front(results: pd.DataFrame) -> pd.DataFrame:
    """The methods that none beats in both the F1 on validation cells and emissions, by falling emissions; means over
    runs. Test cells tell how good they are, and choose nothing."""
    columns = ["validation_weighted_f1", "emissions_g", "weighted_f1"]
    if columns[0] not in results:
        return pd.DataFrame()  # runs of an earlier version
    means = results.groupby(method(results))[columns].mean().dropna(subset=columns[0]).reset_index()
    places = {str(row): (means[columns[0]][row], means["emissions_g"][row]) for row in means.index}
    return means.loc[[int(row) for row in pareto(places)]]
