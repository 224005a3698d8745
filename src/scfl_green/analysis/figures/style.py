"""Shared by all figures: sizes, colours, units, shortened names, legends."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

# Okabe & Ito's palette, told apart by the colour-blind, with hatches and markers for print without colour.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
HATCHES = ("", "////", "\\\\\\\\", "xxxx", "----", "||||")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
WIDE, NARROW = 7.0, 3.6  # inches: two columns of a journal, a phone
DPI = 150
LETTER = 0.075  # inches that a letter takes at most
LONGEST = 32  # letters of a name
MEASURES = {
    "accuracy": "accuracy (share of cells)",
    "weighted_f1": "weighted F1 (0 to 1)",
    "macro_f1": "macro F1 (0 to 1)",
    "emissions_g": "emissions (g CO2e)",
    "eaps": "EAPS (weighted F1 per kg CO2e)",
}
# The same results give the same file.
matplotlib.rcParams["svg.hashsalt"] = "scfl-green"
# Names are no formulas.
matplotlib.rcParams["text.parse_math"] = False
STYLE: Any = {"font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "xtick.labelsize": 7.5, "ytick.labelsize": 7.5}
STYLE |= {"legend.fontsize": 7.5, "axes.spines.top": False, "axes.spines.right": False, "hatch.linewidth": 0.5}


def panels(n: int, narrow: bool, height: float = 2.5) -> tuple[Figure, list[Axes]]:
    """A figure of ``n`` panels: side by side as the page allows, or one below another on a phone."""
    matplotlib.rcParams.update(STYLE)
    columns = 1 if narrow else min(n, 2 if n in (2, 4) else 3)
    rows = -(-n // columns)
    figure = Figure(figsize=(NARROW if narrow else WIDE, height * rows + 0.7), dpi=DPI)
    # Room for letters that are wider in one kind of file than in another.
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.06)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[n:]:
        figure.delaxes(unused)
    return figure, axes[:n]


def finish(figure: Figure, title: str, handles: list[Any]) -> Figure:
    """Title above, legend of these below the panels, where it hides nothing; both as wide as the figure."""
    width = figure.get_figwidth()
    whole = textwrap.fill(title.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}"), int(width / LETTER))
    figure.suptitle(whole.replace("\N{NO-BREAK SPACE}", " "), fontsize=8.5)
    if handles:
        longest = max(len(str(handle.get_label())) for handle in handles)
        columns = int(max(1, min(len(handles), width // (longest * LETTER + 0.45))))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # which would be reckoned again for every file
    return figure


def fitted(names: Iterable[object], longest: int = LONGEST) -> list[str]:
    """Names that fit: the middle of a long one is left out, and different ones stay different."""
    whole = [str(name) for name in names]
    short = [w if len(w) <= longest else f"{w[: longest // 2]}…{w[-(longest // 2 - 1) :]}" for w in whole]
    repeated = {s for s in short if len({w for w, t in zip(whole, short, strict=True) if t == s}) > 1}
    numbers = {w: i for i, w in enumerate(dict.fromkeys(whole), start=1)}
    return [f"{s[:-4]} {numbers[w]}" if s in repeated else s for w, s in zip(whole, short, strict=True)]


def categories(axes: Axes, names: Sequence[object], label: str) -> None:
    """Names along the x axis, upright where they would touch, and no more of them than there is room for."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    columns = axes.get_gridspec().ncols if axes.get_gridspec() else 1  # type: ignore[union-attr]
    room = (figure.get_figwidth() / columns - 0.8) / max(len(names), 1)
    texts = fitted(names, 20)
    step = max(1, int(np.ceil(0.16 / room)))
    upright = max(map(len, texts), default=0) * LETTER > room
    axes.set_xticks(range(0, len(names), step), texts[::step], rotation=90 if upright else 0)
    axes.set_xlabel(label)


def numbers(axis: Axis) -> None:
    """Ticks as numbers are written: no powers, no offsets, few enough to be told apart."""
    axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, np.diff(axis.get_majorticklocs()))))


def share_of_one(axes: Axes) -> None:
    """An x axis of shares, which ends at 1."""
    axes.set_xlim(right=1.02)
    numbers(axes.xaxis)


def _tick(value: float, steps: np.ndarray) -> str:
    """A number with the digits that tell it from the next tick."""
    digits = max(0, 1 - int(np.floor(np.log10(steps.min()) + 1e-9))) if len(steps) else 3
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def log_numbers(axes: Axes, values: pd.Series) -> None:
    """A logarithmic x axis with numbers that are read: at 1, 2 and 5 where few decades are shown."""
    axis, low, high = axes.xaxis, float(values.min()), float(values.max())
    if not low > 0 or high / low < 4:
        return numbers(axis)
    axes.set_xscale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,), numticks=12))
    axis.set_major_formatter(FuncFormatter(written))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def written(value: float, _: object = None) -> str:
    """A number for reading: thousands separated, three digits, no powers of ten."""
    if value == 0 or not np.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - int(np.floor(np.log10(abs(value)) + 1e-9)))
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def scaled(values: pd.Series, unit: str) -> tuple[pd.Series, str]:
    """Values in the unit, from thousands to millionths, in which their largest is between 1 and 1,000."""
    largest = values.max()
    for factor, prefix in ((1e-3, "k"), (1.0, ""), (1e3, "m"), (1e6, "µ")):
        if largest * factor >= 1 or prefix == "µ":
            break
    return values * factor, f"{prefix}{unit}"


def counted(n: pd.Series | Sequence[int]) -> str:
    """The number of runs behind a mean: ``n = 3``, or the range of it."""
    least, most = int(min(n)), int(max(n))
    return f"n = {least}" if least == most else f"n = {least} to {most}"
