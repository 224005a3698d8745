"""Learning curves, confusion matrices and scores by cell type."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scfl_green.analysis.figures import style

LINES = ("-", "--", ":", "-.")


def read_curves(folder: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """Every round or epoch of these runs (metrics.csv): its validated F1, and the run's own panel, line and seed."""
    read = []
    for _, run in runs.iterrows():
        path = folder / run["folder"] / "metrics.csv"
        rows = pd.read_csv(path) if path.exists() else pd.DataFrame()
        step = next((name for name in ("round", "epoch") if name in rows), None)
        if step and "validation/weighted_f1" in rows:
            rows = rows.rename(columns={step: "step", "validation/weighted_f1": "value"})
            if "site_epoch" in rows:  # of each site alone
                rows["step"] = rows["site_epoch"]
            of_run = {"line": run["line"], "panel": run["panel"], "seed": run["seed"]}
            read.append(rows[["step", "value"]].assign(**of_run))
    return pd.concat(read, ignore_index=True).dropna() if read else pd.DataFrame()


def read_finetuning(folder: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """The epochs of both arms of all fine-tuning runs (finetune.csv)."""
    read = []
    for _, run in runs[runs["regime"] == "finetune"].iterrows():
        rows = pd.read_csv(folder / run["folder"] / "finetune.csv").assign(model=run["model"], seed=run["seed"])
        rows["emissions_g"] = rows["emissions_kg"] / run["carbon_intensity_kg_per_kwh"] * 1e3
        rows["emissions_g"] *= run["emissions_g"] / run["energy_wh"]
        read.append(rows)
    return pd.concat(read, ignore_index=True) if read else pd.DataFrame()


def curves(rows: pd.DataFrame, title: str, labels: tuple[str, str], narrow: bool = False) -> Figure:
    """``value`` by ``step`` (``labels``), a panel each of ``panel``, a line each of ``line``: mean and range."""
    names = list(dict.fromkeys(rows["panel"]))
    figure, panels = style.panels(len(names), narrow, 2.3)
    lines = list(dict.fromkeys(rows["line"]))
    for axes, name in zip(panels, names, strict=True):
        of_panel = rows[rows["panel"] == name]
        for place, line in enumerate(lines):
            by = of_panel[of_panel["line"] == line].groupby("step")["value"].agg(["mean", "min", "max"])
            colour = style.COLOURS[place % 6]
            text = style.fitted([line])[0]
            marker = "." if len(by) < 3 else ""
            axes.plot(by.index, by["mean"], color=colour, ls=LINES[place % 4], marker=marker, label=text)
            axes.fill_between(by.index, by["min"], by["max"], color=colour, alpha=0.2, lw=0)
        axes.set(xlabel=labels[0], ylabel=labels[1], title=str(name))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        style.numbers(axes.yaxis)
    n = rows.groupby(["panel", "line"])["seed"].nunique()
    handles = panels[0].get_legend_handles_labels()[0]
    return style.finish(figure, f"{title} ({style.counted(n)})", handles if len(lines) > 1 else [])


def read_confusion(folder: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """Test cells by true and predicted type, of all these runs together."""
    total = pd.DataFrame()
    for name in runs["folder"]:
        path = folder / name / "confusion.csv"
        if path.exists():
            total = total.add(pd.read_csv(path, index_col="true", keep_default_na=False), fill_value=0)
    return total.loc[total.index, total.index] if len(total) else total


def confusion(confused: pd.DataFrame, title: str, narrow: bool = False) -> Figure:
    """Of the cells of every true type (row), the share that was taken for each type (column)."""
    n = len(confused)
    side = max(2.2, (0.2 if narrow else 0.3) * n + 0.8)
    figure, (axes,) = style.panels(1, narrow, side)
    shares = confused.div(confused.sum(axis=1).replace(0, np.nan), axis=0).to_numpy(dtype=float)
    axes.pcolormesh(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=1)
    axes.invert_yaxis()
    for row, column in zip(*np.nonzero(np.nan_to_num(shares) >= 0.005), strict=True):
        dark = "white" if shares[row, column] > 0.5 else "#000001"  # black on any page
        size = 6 if n > 12 or narrow else 7
        axes.text(
            column + 0.5,
            row + 0.5,
            f"{shares[row, column]:.0%}"[:-1],
            ha="center",
            va="center",
            fontsize=size,
            color=dark,
        )
    names = style.fitted(confused.index, 20 if narrow else 28)
    step = -(-n * 16 // round(100 * (figure.get_figwidth() - 2)))  # columns without room for a name have none
    axes.set_xticks(np.arange(0, n, step) + 0.5, names[::step], rotation=90)
    axes.set_yticks(np.arange(n) + 0.5, names)
    axes.set(xlabel="predicted type (% of row)", ylabel="true type")
    axes.spines[:].set_visible(False)
    return style.finish(figure, title, axes.get_legend_handles_labels()[0])


def types(scores: pd.DataFrame, title: str, narrow: bool = False) -> Figure:
    """F1 of every cell type (rows), a column and colour a method."""
    order = list(scores.mean(axis=1).sort_values().index)
    figure, (axes,) = style.panels(1, narrow, max(1.4, 0.2 * len(order) + 0.5))
    for place, name in enumerate(scores):
        values = scores[name].reindex(order)
        look: dict[str, Any] = {"color": style.COLOURS[place % 6], "marker": style.MARKERS[place % 8]}
        axes.plot(values, range(len(order)), ls="", markersize=5, alpha=0.85, label=style.fitted([name])[0], **look)
    axes.set_yticks(range(len(order)), style.fitted(order, 22 if narrow else 40))
    axes.set(xlabel="F1 (0 to 1)", ylabel="cell type", ylim=(-0.6, len(order) - 0.4))
    axes.grid(axis="y", lw=0.3)
    style.share_of_one(axes)
    return style.finish(figure, title, axes.get_legend_handles_labels()[0] if len(scores.columns) > 1 else [])
