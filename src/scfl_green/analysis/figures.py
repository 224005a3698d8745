"""Figures, drawn from what was counted and measured; readable in print and by the colour-blind."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scfl_green.analysis.score import pareto

# Okabe & Ito's palette, told apart by the colour-blind, with hatches for print without colour.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
HATCHES = ("", "//", "..", "xx", "--", "oo")
LABELS = {
    "accuracy": "accuracy", "weighted_f1": "weighted F1", "emissions_g": "g CO2e", "eaps": "EAPS (F1 per kg CO2e)"
}  # fmt: skip
# The same results give the same file.
matplotlib.rcParams["svg.hashsalt"] = "scfl-green"
# Names are no formulas.
matplotlib.rcParams["text.parse_math"] = False


def bars(
    results: pd.DataFrame, over: str, title: str, measures: Sequence[str] = ("accuracy", "weighted_f1", "emissions_g")
) -> Figure:
    """A panel a measure: mean by framework and by ``over``, standard deviation as whisker, every run as a dot."""
    models, kinds = sorted(results["model"].unique()), list(dict.fromkeys(results[over]))
    figure = Figure(figsize=(3.4 * len(measures), 3.2), layout="constrained")
    for axes, measure in zip(np.atleast_1d(figure.subplots(1, len(measures))), measures, strict=True):
        for place, kind in enumerate(kinds):
            at = np.arange(len(models)) + (place - (len(kinds) - 1) / 2) * 0.8 / len(kinds)
            runs = [results[(results["model"] == m) & (results[over] == kind)][measure] for m in models]
            style: dict[str, Any] = {"color": COLOURS[place], "hatch": HATCHES[place], "edgecolor": "white"}
            means, spreads = [r.mean() for r in runs], [r.std() if len(r) > 1 else 0 for r in runs]
            axes.bar(at, means, 0.8 / len(kinds), yerr=spreads, label=kind, error_kw={"lw": 1}, **style)
            for x, values in zip(at, runs, strict=True):
                axes.plot([x] * len(values), values, ".", color="black", markersize=3)
        axes.set_xticks(range(len(models)), models, fontsize=8)
        axes.set_ylabel(LABELS.get(measure, measure), fontsize=8)
        if measure in ("accuracy", "weighted_f1"):
            axes.set_ylim(max(0, results[measure].min() - 0.1), 1)
    _legend(figure)
    n = results.groupby(["model", over]).size()
    figure.suptitle(f"{title}\nbars: mean, whiskers: standard deviation, dots: runs (n = {_range(n)})", fontsize=9)
    return figure


def front(results: pd.DataFrame, title: str) -> Figure:
    """Weighted F1 against emissions, a point a method (means); those that none beats are joined and named."""
    means = results.groupby(["regime", "model", "opt"])[["weighted_f1", "emissions_g"]].mean()
    names = [" · ".join(map(str, method)) for method in means.index.to_list()]
    points = dict(zip(names, means.itertuples(index=False, name=None), strict=True))
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    for place, regime in enumerate(means.index.unique("regime")):
        of_regime = means.loc[regime]
        style = {"color": COLOURS[place], "marker": "os^"[place], "label": regime}
        axes.scatter(of_regime["emissions_g"], of_regime["weighted_f1"], **style)
    best = pareto(points)
    axes.plot([points[name][1] for name in best], [points[name][0] for name in best], color="black", lw=1)
    for name in best:
        axes.annotate(name, (points[name][1], points[name][0]), fontsize=6, xytext=(4, -8), textcoords="offset points")
    axes.set(xscale="log", xlabel="g CO2e (training and transfer)", ylabel="weighted F1")
    axes.xaxis.set_major_formatter("{x:g}")
    _legend(figure)
    figure.suptitle(f"{title}: means (n = {_range(results.groupby(['regime', 'model', 'opt']).size())})", fontsize=9)
    return figure


def where_energy_went(ledger: pd.DataFrame, title: str) -> Figure:
    """Of one federated run: energy by client and by round, what moving the bytes took apart."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    parts = [part for part in ("training: CPU", "training: GPU", "training: RAM", "network") if ledger[part].any()]
    for axes, of in zip(figure.subplots(1, 2), ("client", "round"), strict=True):
        by = ledger.groupby(of)[parts].sum()
        base = pd.Series(0.0, index=by.index)
        at = range(len(by))
        for place, part in enumerate(parts):
            style = {"color": COLOURS[place], "hatch": HATCHES[place], "edgecolor": "white"}
            axes.bar(at, by[part], bottom=base, label=part, **style)
            base = base + by[part]
        axes.set_xticks(at, [str(name)[:14] for name in by.index])
        axes.set_xlabel(of, fontsize=8)
        axes.set_ylabel("Wh", fontsize=8)
        axes.tick_params(axis="x", labelrotation=30 if of == "client" else 0, labelsize=7)
    _legend(figure)
    figure.suptitle(f"{title} (n = 1)", fontsize=9)
    return figure


def epochs(curves: pd.DataFrame, title: str) -> Figure:
    """Test accuracy after every epoch of fine-tuning and of training from scratch: mean and range over runs."""
    models = sorted(curves["model"].unique())
    figure = Figure(figsize=(2.8 * len(models), 3), layout="constrained")
    for axes, model in zip(np.atleast_1d(figure.subplots(1, len(models), sharey=True)), models, strict=True):
        for place, (arm, rows) in enumerate(curves[curves["model"] == model].groupby("arm", sort=False)):
            by = rows.groupby("epoch")["test_accuracy"].agg(["mean", "min", "max"])
            axes.plot(by.index, by["mean"], color=COLOURS[place], ls=("-", "--")[place % 2], label=arm)
            axes.fill_between(by.index, by["min"], by["max"], color=COLOURS[place], alpha=0.2)
        axes.set_title(model, fontsize=8)
        axes.set_xlabel("epoch", fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.axes[0].set_ylabel("test accuracy", fontsize=8)
    _legend(figure)
    n = curves.groupby(["model", "arm"])["seed"].nunique()
    figure.suptitle(f"{title}: mean and range over runs (n = {_range(n)})", fontsize=9)
    return figure


def _legend(figure: Figure) -> None:
    """Below the panels, where it hides nothing."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=7, frameon=False)


def _range(n: pd.Series) -> str:
    return f"{n.min()}" if n.min() == n.max() else f"{n.min()} to {n.max()}"
