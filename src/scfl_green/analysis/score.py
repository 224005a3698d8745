"""Scores of runs and of methods: arithmetic on numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

CONFIDENCE = 0.95
POWER = 0.8  # with which a difference is to be found that so many repeats can detect
FEWEST = 3  # repeats, below which nothing is known
EQUAL = 1.05  # ratio up to which two methods are practically equal


@dataclass(frozen=True)
class Interval:
    """An estimate, the interval that holds the true value with probability ``CONFIDENCE``, and the p-value of none."""

    estimate: float
    low: float
    high: float
    p: float = float("nan")

    def excludes(self, value: float) -> bool:
        return value < self.low or value > self.high


def difference(method: ArrayLike, reference: ArrayLike, looks: int = 1) -> Interval:
    """Mean difference of two methods' scores, paired by repeat: Student's interval and p-value.

    Who looks after every repeat, and may stop, says how many ``looks`` there may be: interval and p-value then hold at
    all of them together, whatever decides when to stop. They are Bonferroni's, which need no more than that: repeated
    confidence intervals (Jennison & Turnbull 1989, JRSS B 51:305) that spend the error evenly (Lan & DeMets 1983,
    Biometrika 70:659).
    With less than three pairs, or one that is not finite, nothing is known: the interval is everything and p is 1.
    """
    pairs = np.asarray(method, dtype=float) - np.asarray(reference, dtype=float)
    mean = float(pairs.mean()) if len(pairs) else float("nan")
    if len(pairs) < FEWEST or not np.isfinite(pairs).all():
        return Interval(mean, -float("inf"), float("inf"), 1.0)
    if np.ptp(pairs) == 0:  # repeats that are all alike have no t
        return Interval(mean, mean, mean, float(mean == 0))
    tested = stats.ttest_1samp(pairs, 0)
    low, high = tested.confidence_interval(1 - (1 - CONFIDENCE) / looks)
    return Interval(mean, float(low), float(high), min(1.0, float(tested.pvalue) * looks))


def ratio(method: ArrayLike, reference: ArrayLike, looks: int = 1) -> Interval:
    """Geometric mean ratio of two methods' scores (positive), paired by repeat: Student's interval of the log ratios.

    ``looks`` as in ``difference``. With less than three pairs nothing is known: the interval is (0, inf).
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        logs = difference(np.log(np.asarray(method, dtype=float)), np.log(np.asarray(reference, dtype=float)), looks)
        estimate, low, high = (float(np.exp(value)) for value in (logs.estimate, logs.low, logs.high))
    return Interval(estimate, low, high, logs.p)


def equality(method: ArrayLike, reference: ArrayLike, looks: int = 1) -> float:
    """The p-value of two methods not being practically equal: of a true ratio beyond ``EQUAL``, either way.

    Two one-sided t-tests of the paired log ratios (Schuirmann 1987, J Pharmacokinet Biopharm 15:657); ``looks`` as in
    ``difference``. 1 where nothing is known.
    """
    logs = _log_ratios(method, reference)
    if len(logs) < FEWEST or not np.isfinite(logs).all():
        return 1.0
    margin = np.log(EQUAL)
    if np.ptp(logs) == 0:
        return float(abs(logs[0]) >= margin)
    nearer = (margin - abs(logs.mean())) / stats.sem(logs)  # the one of the two that is harder to pass
    return min(1.0, float(stats.t.sf(nearer, len(logs) - 1)) * looks)


def holm(p: Sequence[float]) -> np.ndarray:
    """P-values of a family of comparisons, adjusted so that the chance of any false finding is that of one.

    Holm 1979 (Scandinavian Journal of Statistics 6:65).
    """
    values = np.asarray(p, dtype=float)
    order = np.argsort(values)
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)).clip(max=1)
    return adjusted


def found(p: ArrayLike) -> Any:
    """Whether adjusted p-values show a difference; those that are not known do not."""
    return np.asarray(p, dtype=float) < 1 - CONFIDENCE


def detectable(method: ArrayLike, reference: ArrayLike, tests: int = 1) -> float:
    """The ratio of two methods that as many repeats, spread as these, would find in ``POWER`` of cases, or more.

    By the noncentral t distribution of the paired, two-sided test, adjusted for so many ``tests`` (comparisons times
    looks); infinite below three repeats.
    """
    logs = _log_ratios(method, reference)
    n = len(logs)
    if n < FEWEST or not np.isfinite(logs).all():
        return float("inf")
    edge = stats.t.isf((1 - CONFIDENCE) / 2 / tests, n - 1)

    shift = optimize.brentq(lambda at: stats.nct.sf(edge, n - 1, at) - POWER, 0, 3 * edge)
    return float(np.exp(shift * logs.std(ddof=1) / np.sqrt(n)))


def _log_ratios(method: ArrayLike, reference: ArrayLike) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        logs: np.ndarray = np.log(np.asarray(method, dtype=float)) - np.log(np.asarray(reference, dtype=float))
    return logs


def ties(scores: Mapping[Any, Sequence[float]], looks: int = 1) -> tuple[Any, dict[Any, float]]:
    """The method whose scores are highest, and the p-value of each other being as high.

    ``scores`` are positive and paired: the same repeats in the same order for every method.
    """
    with np.errstate(divide="ignore"):
        best = max(scores, key=lambda name: np.nan_to_num(np.log(scores[name]).mean(), nan=-np.inf))
    return best, {name: ratio(scores[best], scores[name], looks).p for name in scores if name != best}


def winners(scores: Mapping[str, Sequence[float]], looks: int = 1) -> list[str]:
    """The method whose scores are highest, if it differs from every other (Holm); else all that tie with it."""
    best, p = ties(scores, looks)
    differs = found(holm(list(p.values())))
    return [best, *(name for name, one in zip(p, differs, strict=True) if not one)]


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
