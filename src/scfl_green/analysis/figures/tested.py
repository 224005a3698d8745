"""Scores by site, and confidence against accuracy, on test cells."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scfl_green.analysis.figures import style

ELSEWHERE = "elsewhere_weighted_f1"


def read_sites(folder: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """Weighted F1 on the test cells of every site (sites.csv) of these runs, by the run's ``line``; of a model of each
    site alone, also on those of all other sites."""
    read = []
    for _, run in runs.iterrows():
        if not (path := folder / run["folder"] / "sites.csv").exists():
            continue
        rows = pd.read_csv(path, dtype={"site": str}, keep_default_na=False, na_values={ELSEWHERE: ""})
        rows = rows.assign(value=rows["weighted_f1"], line=run["line"], seed=run["seed"])
        read.append(rows)
        if ELSEWHERE in rows:
            read.append(rows.assign(value=rows[ELSEWHERE], line=f"{run['line']}, at the other sites"))
    return pd.concat(read, ignore_index=True).dropna(subset="value") if read else pd.DataFrame()


def sites(rows: pd.DataFrame, title: str, narrow: bool = False) -> Figure:
    """Weighted F1 of every site (row), a colour each of ``line``: mean and range of the runs."""
    order = list(rows.groupby("site")["value"].mean().sort_values().index)
    lines = list(dict.fromkeys(rows["line"]))
    figure, (axes,) = style.panels(1, narrow, max(1.4, max(0.2, 0.08 * len(lines)) * len(order) + 0.5))
    for place, line in enumerate(lines):
        by = rows[rows["line"] == line].groupby("site")["value"].agg(["mean", "min", "max"]).reindex(order)
        y = np.arange(len(order)) - (place - (len(lines) - 1) / 2) * 0.7 / len(lines)
        look: dict[str, Any] = {"color": style.COLOURS[place % 6], "fmt": style.MARKERS[place % 8]}
        reach = np.clip([by["mean"] - by["min"], by["max"] - by["mean"]], 0, None)  # equal runs have a rounded mean
        axes.errorbar(by["mean"], y, xerr=reach, markersize=5, lw=1.2, label=style.fitted([line], 40)[0], **look)
    axes.set_yticks(range(len(order)), style.fitted(order, 22 if narrow else 40))
    axes.set(xlabel=style.MEASURES["weighted_f1"], ylabel="site", ylim=(-0.6, len(order) - 0.4))
    axes.grid(axis="y", lw=0.3)
    style.share_of_one(axes)
    return style.finish(figure, title, axes.get_legend_handles_labels()[0] if len(lines) > 1 else [])


def read_calibration(folder: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """The cells of every bin of confidence that has some (calibration.csv), of each of these runs."""
    read = []
    for _, run in runs.iterrows():
        if (path := folder / run["folder"] / "calibration.csv").exists():
            read.append(pd.read_csv(path).assign(seed=run["seed"]))
    return pd.concat(read, ignore_index=True).dropna() if read else pd.DataFrame()


def calibration_error(rows: pd.DataFrame) -> float:
    """The expected calibration error, a mean over runs."""
    apart = (rows["confidence"] - rows["accuracy"]).abs() * rows["cells"]
    return float((apart.groupby(rows["seed"]).sum() / rows.groupby("seed")["cells"].sum()).mean())


def calibration(by_model: dict[str, pd.DataFrame], title: str, narrow: bool = False) -> Figure:
    """Accuracy by confidence, a colour a method, its runs together; the more cells, the larger the marker."""
    figure, (axes,) = style.panels(1, narrow, 3.2)
    handles = []
    for place, (name, rows) in enumerate(by_model.items()):
        sums = rows[["confidence", "accuracy"]].mul(rows["cells"], axis=0).assign(cells=rows["cells"])
        by = sums.groupby(rows["confidence_from"]).sum()
        x, y = by["confidence"] / by["cells"], by["accuracy"] / by["cells"]
        look: dict[str, Any] = {"color": style.COLOURS[place % 6], "marker": style.MARKERS[place % 8]}
        label = f"{style.fitted([name])[0]}: ECE {calibration_error(rows):.3f}"
        handles += axes.plot([], [], lw=0.8, markersize=5, label=label, **look)
        axes.plot(x, y, lw=0.8, color=look["color"])
        axes.scatter(x, y, 4 + 200 * by["cells"] / by["cells"].sum(), alpha=0.7, **look)
    axes.plot([0, 1], [0, 1], color="black", lw=0.8, ls=":")
    axes.set(xlabel="confidence (0 to 1)", ylabel=style.MEASURES["accuracy"], ylim=(-0.03, 1.05))
    style.share_of_one(axes)
    style.numbers(axes.yaxis)
    return style.finish(figure, title, handles)
