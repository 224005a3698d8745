"""The Pareto front of weighted F1 and emissions."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from scfl_green.analysis.figures import style
from scfl_green.analysis.results import method, varied
from scfl_green.analysis.score import pareto

# Of a regime's markers.
FILLS: tuple[Any, ...] = ("full", "none", "left")
# Of a number from its point, in points: near ones first.
OFFSETS = [(6, -11), (6, 6), (-10, 6), (-10, -11), (-2, 8), (-2, -15), (9, -3), (-15, -3)]
OFFSETS += [(2 * x, 2 * y) for x, y in OFFSETS] + [(3 * x, 3 * y) for x, y in OFFSETS]


def front(results: pd.DataFrame, title: str, narrow: bool = False) -> Figure:
    """Weighted F1 against emissions, a point a method (means): colour and marker say which, and a name when touched.

    Methods that none beats are joined and numbered, by falling emissions (``beaten_by_none``).
    """
    points = _points(results)
    values, unit = style.scaled(points["emissions_g"], "g CO2e")
    figure, (axes,) = style.panels(1, narrow, 3.4)
    looks = _looks(points)
    for place, (name, f1) in enumerate(zip(points["name"], points["weighted_f1"], strict=True)):
        axes.plot(values.iloc[place], f1, ls="", markersize=6, gid=f"point:{name}", **looks[place])
    best = [list(points["name"]).index(name) for name in beaten_by_none(results)]
    axes.plot(values.iloc[best], points["weighted_f1"].iloc[best], color="black", lw=0.8, zorder=0)
    axes.set(xlabel=f"emissions of training and transfer ({unit})", ylabel=style.MEASURES["weighted_f1"])
    style.log_numbers(axes, values)
    style.numbers(axes.yaxis)
    axes.margins(0.08, 0.12)
    n = results.groupby(method(results)).size()
    style.finish(figure, f"{title} ({style.counted(n)})", _keys(points))
    _number(axes, list(zip(values, points["weighted_f1"], strict=True)), best)  # where points lie is known by now
    return figure


def beaten_by_none(results: pd.DataFrame) -> list[str]:
    """The methods on the front, by falling emissions, as they are numbered in the figure."""
    rows = _points(results)[["name", "weighted_f1", "emissions_g"]].itertuples(index=False, name=None)
    return pareto({name: (f1, emissions) for name, f1, emissions in rows})


def _points(results: pd.DataFrame) -> pd.DataFrame:
    """A row a method: its name, the columns that colour, marker and filling stand for, and its means."""
    columns = [column for column in method(results) if column != "data"]
    points = results.groupby(columns)[["weighted_f1", "emissions_g"]].mean().reset_index()
    points["name"] = points[columns].astype(str).agg(" · ".join, axis=1)
    others = [column for column in ("opt", *varied(results)) if points[column].nunique() > 1]
    points["other"] = points[others].astype(str).agg(" · ".join, axis=1) if others else ""
    return points


def _looks(points: pd.DataFrame) -> list[dict[str, Any]]:
    models, others, regimes = (list(points[column].unique()) for column in ("model", "other", "regime"))
    looks = []
    for model, other, regime in points[["model", "other", "regime"]].itertuples(index=False, name=None):
        colour = style.COLOURS[models.index(model) % 6]
        fill = FILLS[regimes.index(regime) % 3]
        marker = style.MARKERS[others.index(other) % 8]
        looks.append({"color": colour, "marker": marker, "fillstyle": fill, "markeredgewidth": 1.3})
    return looks


def _keys(points: pd.DataFrame) -> list[Line2D]:
    """What colours, markers and fillings stand for, of those that differ."""
    grey: dict[str, Any] = {"ls": "", "color": "#777777"}
    columns = {
        "model": [{"color": colour, "marker": "o", "ls": ""} for colour in style.COLOURS],
        "other": [{**grey, "marker": marker} for marker in style.MARKERS],
        "regime": [{**grey, "marker": "o", "fillstyle": fill} for fill in FILLS],
    }
    keys = []
    for column, looks in columns.items():
        names = list(points[column].unique())
        for name, place in zip(style.fitted(names), range(len(names)), strict=True):
            if len(names) > 1:
                keys.append(Line2D([], [], label=name, **looks[place % len(looks)]))
    return keys


def _number(axes: Axes, points: Sequence[tuple[float, float]], chosen: Sequence[int]) -> None:
    """Numbers beside the chosen points, each where it touches no point and no earlier number."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    pixels = axes.transData.transform(points)
    reach = figure.dpi / 72 * 4
    taken = [Bbox.from_bounds(x - reach, y - reach, 2 * reach, 2 * reach) for x, y in pixels]
    for number, row in enumerate(chosen, start=1):
        found: list[Any] = []
        for dx, dy in OFFSETS:
            text = axes.annotate(str(number), points[row], (dx, dy), textcoords="offset points", fontsize=7.5)
            box = text.get_window_extent()
            found.append((sum(box.overlaps(other) for other in taken), len(found), text, box))
        _, _, text, box = min(found)
        taken.append(box)
        for _, _, other, _ in found:
            if other is not text:
                other.remove()
