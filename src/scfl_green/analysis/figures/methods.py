"""Scores and emissions of methods, and their ratios."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scfl_green.analysis.figures import style
from scfl_green.analysis.results import SCORES

PANELS = (*SCORES, "emissions_g")


def bars(
    results: pd.DataFrame,
    over: str,
    title: str,
    measures: Sequence[str] = PANELS,
    x: str = "model",
    narrow: bool = False,
) -> Figure:
    """A panel a measure: mean by ``x`` and, as colours, ``over``; standard deviation as whisker, every run a dot.

    Means are bars from zero, but of scores, whose axes do not begin there: those are markers.
    """
    figure, panels = style.panels(len(measures), narrow)
    for axes, measure in zip(panels, measures, strict=True):
        values, label = results[measure], style.MEASURES.get(measure, measure)
        if measure == "emissions_g":
            values, unit = style.scaled(values, "g CO2e")
            label = f"emissions ({unit})"
        _groups(axes, results.assign(value=values), x, over, measure not in SCORES)
        axes.set_ylabel(label)
        style.numbers(axes.yaxis)
    n = results.groupby([x, over]).size()
    handles = panels[-1].get_legend_handles_labels()[0]
    return style.finish(figure, f"{title} ({style.counted(n)})", handles if len(handles) > 1 else [])


def _groups(axes: Axes, runs: pd.DataFrame, x: str, over: str, from_zero: bool) -> None:
    places, kinds = list(dict.fromkeys(runs[x].sort_values())), list(dict.fromkeys(runs[over].sort_values()))
    for place, kind in enumerate(kinds):
        at = np.arange(len(places)) + (place - (len(kinds) - 1) / 2) * 0.8 / len(kinds)
        groups = [runs.loc[(runs[x] == name) & (runs[over] == kind), "value"] for name in places]
        means = [group.mean() if len(group) else np.nan for group in groups]
        spreads = [group.std() if len(group) > 1 else np.nan for group in groups]
        colour, label = style.COLOURS[place % 6], style.fitted([kind])[0]
        if from_zero:
            hatch = style.HATCHES[(place + place // 6) % 6]
            look: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}
            axes.bar(at, means, 0.8 / len(kinds), label=label, **look)
            axes.errorbar(at, means, yerr=spreads, fmt="none", ecolor="black", lw=1)
        else:
            marker = style.MARKERS[place % 8]
            axes.errorbar(at, means, yerr=spreads, fmt=marker, color=colour, label=label, lw=1.2, markersize=6)
        for where, group in zip(at, groups, strict=True):
            axes.plot([where] * len(group), group, ".", color="black", markersize=3)
    axes.set_xlim(-0.6, len(places) - 0.4)
    style.categories(axes, places, x)


def ratios(table: pd.DataFrame, over: str, title: str, narrow: bool = False) -> Figure:
    """EAPS relative to a reference (``tables.compare``): a row a cell, a colour a value of ``over``, with intervals."""
    heading = next(column for column in table if str(column).startswith("ratio to "))
    rest = table.columns[: list(table.columns).index("EAPS")]
    apart = [column for column in rest if column != over and table[column].nunique() > 1]
    cells = table[apart].astype(str).agg(" · ".join, axis=1) if apart else table[over].astype(str)
    rows, kinds = list(dict.fromkeys(cells)), list(dict.fromkeys(table[over]))
    figure, (axes,) = style.panels(1, narrow, 0.6 + 0.16 * len(rows) * (len(kinds) if apart else 1))
    low_high = table[f"{0.95:.0%} interval"].astype(str).str.extract(r"(\S+)–(\S+)").astype(float)
    for place, kind in enumerate(kinds):
        chosen = [value == kind for value in table[over]]
        shift = (place - (len(kinds) - 1) / 2) * 0.8 / len(kinds) if apart else 0
        y = np.array([rows.index(cell) for cell in cells[chosen]]) + shift
        x = table[heading][chosen].to_numpy()
        error = np.abs(low_high[chosen].to_numpy().T - x)
        look: dict[str, Any] = {
            "color": style.COLOURS[place % 6 if apart else 0],
            "fmt": style.MARKERS[place % 8],
            "markersize": 5,
            "lw": 1.2,
        }
        axes.errorbar(x, y, xerr=error, label=style.fitted([kind])[0], capsize=2, **look)
    axes.axvline(1, color="black", lw=0.8, ls=":")
    axes.set_yticks(range(len(rows)), style.fitted(rows, 24 if narrow else 40))
    axes.set(ylabel=" · ".join(apart or [over]), xlabel=f"EAPS, {heading} (times)", ylim=(len(rows) - 0.4, -0.6))
    style.numbers(axes.xaxis)
    title = f"{title} ({style.counted(table['runs'])})"
    return style.finish(figure, title, axes.get_legend_handles_labels()[0] if apart else [])
