"""The headline of a sweep: its main finding in one sentence, with an interval."""

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from scfl_green.analysis.drawing import NAMED, main_axis, repeats
from scfl_green.analysis.figures.style import scaled, written
from scfl_green.analysis.results import looks, method
from scfl_green.analysis.score import FEWEST, Interval, difference, found, holm, ratio

SAME = 1.0  # points of accuracy within which two methods are called the same


def headlines(results: pd.DataFrame) -> list[str]:
    """A sentence a dataset: of fine-tuning where there is some, else of the first thing that was varied."""
    return [_finetuned(runs) or _compared(runs) or _alone(runs) for _, runs in results.groupby("data")]


def _compared(runs: pd.DataFrame) -> str | None:
    """The method that gets most from a gram, against its reference: the baseline, or the next best."""
    over = main_axis(runs)
    if over is None:
        return None
    regimes = set(runs["regime"])
    if over != "regime" and len(regimes) > 1:
        runs = runs[runs["regime"] == ("federated" if "federated" in regimes else min(regimes))]
    scores = _by_seed(runs, over, "eaps")
    ranked = scores.map(np.log).mean().sort_values(ascending=False).index
    if len(ranked) < 2 or not len(scores):
        return None
    reference = "baseline" if over == "opt" and "baseline" in ranked else ranked[1]
    best = next(name for name in ranked if name != reference)
    against = {name: ratio(scores[name], scores[reference], looks(runs)) for name in ranked if name != reference}
    p = dict(zip(against, holm([interval.p for interval in against.values()]), strict=True))
    accuracy = _by_seed(runs, over, "accuracy") * 100
    change = difference(accuracy[best], accuracy[reference], looks(runs))
    other = "the baseline" if reference == "baseline" else _named(over, reference)
    gain = f"{written(against[best].estimate)} times the F1 per gram of CO2e of {other}"
    times = f"{_titled(over, best)}: {gain}"
    claim = times if found(p[best]) else f"No difference shown: {times}"
    claim = claim if len(scores) >= FEWEST else times
    return f"{claim} ({_interval(against[best])}), {_accuracy(change)}, on {_where(runs, over)}; {_count(len(scores))}."


def _by_seed(runs: pd.DataFrame, over: str, measure: str) -> pd.DataFrame:
    """A row a seed, a column a method: the mean (of logarithms, for EAPS) over all else that was varied; only of seeds
    that all of it has."""
    others = [column for column in method(runs) if column != over]
    values = runs.assign(value=np.log(runs[measure]) if measure == "eaps" else runs[measure])
    table = values.pivot_table(index=["seed", *others], columns=over, values="value").dropna()
    cells = table.groupby("seed").size()
    means: pd.DataFrame = table.groupby("seed").mean()[cells == cells.max()]
    return means.map(np.exp) if measure == "eaps" else means


def _finetuned(runs: pd.DataFrame) -> str | None:
    tuned = runs[runs["regime"] == "finetune"]
    if tuned.empty:
        return None
    means = tuned.groupby("seed")[["accuracy", "scratch_accuracy"]].mean() * 100
    change = difference(means["accuracy"], means["scratch_accuracy"])
    emitted = tuned.groupby("seed")[["emissions_kg", "scratch_emissions_kg"]].agg(stats.gmean)
    used = ratio(emitted["emissions_kg"], emitted["scratch_emissions_kg"])
    return (
        f"Fine-tuning at a newcomer, against training from scratch there: {_accuracy(change)}, "
        f"{written(used.estimate)} times the emissions ({_interval(used)}), on {_where(tuned, 'regime')}; "
        f"{_count(len(means))}."
    )


def _alone(runs: pd.DataFrame) -> str:
    """The scores and emissions of a method: the only one, or of several that have no seed in common, the one that gets
    most from a gram."""
    each = runs.groupby(method(runs))["eaps"].transform("mean")
    several = f" (the most F1 per gram of {each.nunique()} methods, which do not compare)" if each.nunique() > 1 else ""
    runs = repeats(runs.loc[each.sort_values(ascending=False, kind="stable").index])
    one = runs.iloc[0]
    numbers = {"weighted F1": runs["weighted_f1"], "macro F1": runs["macro_f1"], "accuracy": runs["accuracy"]}
    scores = ", ".join(f"{name} {values.mean():.3f}" for name, values in numbers.items())
    emitted, unit = scaled(pd.Series([runs["emissions_g"].mean()]), "g CO2e")
    where = f"{one['model']}, {one['regime']}, on {one['data']}{several}"
    return f"{where}: {scores}, for {written(emitted[0])} {unit}; {_count(len(runs))}."


def _accuracy(change: Interval) -> str:
    """The change of accuracy in points: called the same only where its whole interval is."""
    if not np.isfinite(change.low):
        return f"accuracy {change.estimate:+.1f} points (no interval)"
    reach = f"{change.low:+.1f} to {change.high:+.1f} points"
    if change.low > -SAME and change.high < SAME:
        return f"same accuracy ({reach})"
    if not change.excludes(0):
        return f"no difference in accuracy shown ({reach})"
    return f"{abs(change.estimate):.1f} points {'more' if change.estimate > 0 else 'less'} accuracy ({reach})"


def _interval(interval: Interval) -> str:
    return f"{interval.low:.2f}–{interval.high:.2f}" if np.isfinite(interval.high) else "no interval"


def _named(over: str, value: Any) -> str:
    if over in ("opt", "regime"):
        return NAMED.get(value, str(value).replace("_", " "))
    return str(value) if over == "model" else f"{over}={value}"


def _titled(over: str, value: Any) -> str:
    name = _named(over, value)
    return name[:1].upper() + name[1:] if over in ("opt", "regime") else name


def _where(runs: pd.DataFrame, over: str) -> str:
    """The dataset, and over what else the comparison is a mean."""
    kept = [str(runs["data"].iloc[0])]
    for column in method(runs):
        if column not in ("data", over, "opt"):
            names = list(dict.fromkeys(runs[column].astype(str)))
            kept.append(
                names[0] if len(names) == 1 else f"mean of {len(names)} {'frameworks' if column == 'model' else column}"
            )
    return ", ".join(kept)


def _count(seeds: int) -> str:
    few = "" if seeds >= FEWEST else ", too few for an interval"
    return f"n = {seeds} seed{'s' if seeds > 1 else ''}{few}"
