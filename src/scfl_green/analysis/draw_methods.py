"""Figures that compare the methods of a sweep, whatever it varies."""

from collections.abc import Iterator
from functools import partial

import pandas as pd

from scfl_green.analysis import figures, tables
from scfl_green.analysis.drawing import MOST, NAMED, Drawing, Runs, bars_caption, count, main_axis
from scfl_green.analysis.results import method, varied


def draw_ratios(of: Runs) -> Iterator[Drawing]:
    over = main_axis(of.trained)
    if over is None:
        return
    table = tables.compare(of.trained, over, "baseline" if over == "opt" else None)
    if not table.empty and (table["runs"] > 2).any():
        caption = (
            "Points: geometric mean of the ratios of runs with the same seed; whiskers: Student's 95% interval of it. "
            f"At 1 (dotted) a method is as good as its reference. {count(of.trained)}"
        )
        draw = partial(figures.ratios, table, over)
        yield of.drawing("ratios", f"{of.data}: F1 per gram of CO2e, by {over}", caption, draw)


def draw_regimes(of: Runs) -> Iterator[Drawing]:
    if of.plain["regime"].nunique() > 1 and not varied(of.plain):
        runs = of.plain.assign(regime=of.plain["regime"].replace(NAMED))
        title = f"{of.data}: training {', '.join(sorted(set(runs['regime'])))}"
        caption = bars_caption(runs.groupby(method(runs)).size())
        if "elsewhere_accuracy" in runs:
            elsewhere = f"at the other sites, their accuracy is {runs['elsewhere_accuracy'].mean():.2f}"
            caption += f" Each site alone: models of single sites at home, all sites pooled; {elsewhere}."
        yield of.drawing("regimes", title, caption, partial(figures.bars, runs, "regime"))


def draw_opts(of: Runs) -> Iterator[Drawing]:
    for regime, runs in of.trained.groupby("regime"):
        if varied(runs) or runs["opt"].nunique() < 2:
            continue
        batches = runs[runs["opt"].isin(["baseline", "small_batch"])]
        if batches["opt"].nunique() > 1:
            sizes = batches.assign(batch=batches["batch_size"].map("{:,} cells a batch".format))
            draw = partial(figures.bars, sizes, "batch")
            yield of.drawing(
                f"{regime}_small_batch",
                f"{of.data}: small batches, {regime}",
                bars_caption(batches.groupby(method(batches)).size()),
                draw,
            )
        measures = ("accuracy", "macro_f1", "emissions_g", "eaps")
        draw = partial(figures.bars, runs, "opt", measures=measures)
        yield of.drawing(
            f"{regime}_opts", f"{of.data}: opts, {regime}", bars_caption(runs.groupby(method(runs)).size()), draw
        )


def draw_settings(of: Runs) -> Iterator[Drawing]:
    """Every varied setting along the axis, by its value; a figure more wherever colours would run out."""
    for key in varied(of.trained):
        if of.trained[key].nunique() < 2:
            continue
        others = [c for c in method(of.trained) if c not in ("data", key) and of.trained[c].nunique() > 1]
        for place, runs in _sliced(of.trained, others):
            left = [column for column in others if runs[column].nunique() > 1]
            series = runs[left].astype(str).agg(" · ".join, axis=1) if left else pd.Series(runs["model"])
            measures = ("accuracy", "macro_f1", "emissions_g", "eaps")
            draw = partial(figures.bars, runs.assign(series=series), "series", measures=measures, x=key)
            title = f"{of.data}: {key}" + (f", {place}" if place else "")
            yield of.drawing(
                "_".join(filter(None, (key, place))), title, bars_caption(runs.groupby(method(runs)).size()), draw
            )


def _sliced(runs: pd.DataFrame, columns: list[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """The runs in parts of few enough methods, each with the values that it was cut by."""
    if not columns or len(runs.groupby(columns)) <= MOST:
        yield "", runs
        return
    for value, part in runs.groupby(columns[0]):
        for more, smaller in _sliced(part, columns[1:]):
            yield "_".join(filter(None, (str(value), more))), smaller


def draw_front(of: Runs) -> Iterator[Drawing]:
    if len(of.trained.groupby(method(of.trained))) > 1:
        best = [f"{number}: {name}" for number, name in enumerate(figures.beaten_by_none(of.trained), start=1)]
        caption = f"Points: means of the runs of a method. Joined, since none beats them: {'; '.join(best)}. "
        draw = partial(figures.front, of.trained)
        yield of.drawing("front", f"{of.data}: what accuracy costs", caption + count(of.trained), draw)
