"""Scores of runs and of methods: arithmetic on numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval that holds the true value with probability ``CONFIDENCE``."""

    estimate: float
    low: float
    high: float

    def excludes(self, value: float) -> bool:
        return value < self.low or value > self.high


def ratio(method: Sequence[float], reference: Sequence[float]) -> Interval:
    """Geometric mean ratio of two methods' scores (positive), paired by repeat, and its bootstrap-t interval.

    Efron & Tibshirani 1993 (An Introduction to the Bootstrap, sections 6.5 and 12.5): log ratios are resampled from the
    normal distribution fitted to them. Resampling the values themselves cannot do with the few repeats of a sweep:
    three have 27 resamples, none wider than what was seen, which names winners among equals every fourth time. With
    less than three pairs nothing is known: the interval is (0, inf).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.asarray(method, dtype=float)) - np.log(np.asarray(reference, dtype=float))
    if len(logs) < 3 or not np.isfinite(logs).all():
        return Interval(float(np.exp(logs.mean())), 0.0, float("inf"))
    mean, spread = logs.mean(), logs.std(ddof=1)
    drawn = np.random.default_rng(0).normal(size=(RESAMPLES, len(logs)))
    deviations = drawn.mean(axis=1) / drawn.std(axis=1, ddof=1)
    reach = np.quantile(np.abs(deviations), CONFIDENCE) * spread
    return Interval(*(float(np.exp(value)) for value in (mean, mean - reach, mean + reach)))


def winners(scores: Mapping[str, Sequence[float]]) -> list[str]:
    """The method whose scores are highest, if its interval against every other excludes 1; else all that tie with it.

    ``scores`` are positive and paired: the same repeats in the same order for every method.
    """
    with np.errstate(divide="ignore"):
        best = max(scores, key=lambda name: np.nan_to_num(np.log(scores[name]).mean(), nan=-np.inf))
    tied = [name for name in scores if name != best and not ratio(scores[best], scores[name]).excludes(1.0)]
    return [best, *tied]


def pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The methods that none other beats: (F1, emissions) by name, of which no other has as high an F1 for as little
    and is better in one of the two; by falling emissions."""
    front = [
        name
        for name, (f1, emissions) in points.items()
        if not any(f >= f1 and e <= emissions and (f, e) != (f1, emissions) for f, e in points.values())
    ]
    return sorted(front, key=lambda name: -points[name][1])


def auc(low: np.ndarray, high: np.ndarray) -> Interval:
    """The probability that a value of ``low`` is below one of ``high``, ties counting half (Mann-Whitney's U over all
    pairs: the area under the ROC curve), and its interval.

    DeLong et al. 1988 (Biometrics 44:837), by ranks as Sun & Xu 2014 (IEEE SPL 21:1389), on the logit scale, which
    keeps to (0, 1). Where no pair is out of order the variance says nothing: pairs that share no value are then
    independent, and the interval is the exact one of as many successes. (0, 1) where a side has less than two values.
    """
    n, m = len(low), len(high)
    ranks = stats.rankdata(np.concatenate([low, high]))
    # Of every value, the share of the other side that is in order with it.
    of_low = 1 - (ranks[:n] - stats.rankdata(low)) / m
    of_high = (ranks[n:] - stats.rankdata(high)) / n
    area = float(of_low.mean())
    if min(n, m) < 2:
        return Interval(area, 0.0, 1.0)
    if area in (0, 1):
        edge = ((1 - CONFIDENCE) / 2) ** (1 / min(n, m))
        return Interval(area, edge, 1.0) if area else Interval(area, 0.0, 1 - edge)
    error = np.sqrt(of_low.var(ddof=1) / n + of_high.var(ddof=1) / m) / (area * (1 - area))
    logit = np.log(area / (1 - area)) + stats.norm.ppf((1 + CONFIDENCE) / 2) * error * np.array([-1, 1])
    return Interval(area, *(float(value) for value in 1 / (1 + np.exp(-logit))))


def tpr_at_fpr(low: np.ndarray, high: np.ndarray, fpr: float) -> float:
    """The largest share of ``low`` below a threshold that at most a share ``fpr`` of ``high`` is below, too."""
    return float((low < np.sort(high)[int(fpr * len(high))]).mean())
