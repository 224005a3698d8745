"""Scores: laws, and the error rates that are stated."""

import numpy as np
import pytest
from scipy import stats

from scfl_green.analysis.score import EQUAL, detectable, equality, found, holm, pareto, ratio, winners
from scfl_green.energy.eaps import eaps

RNG = np.random.default_rng(0)


def runs(n: int, factor: float = 1.0, noise: float = 0.05) -> np.ndarray:
    return factor * np.exp(RNG.normal(0, noise, n))


def test_eaps_is_f1_over_emissions() -> None:
    assert eaps(0.9, 0.001) == pytest.approx(900)
    assert eaps(0.9, 0.0) is None
    assert eaps(0.9, 0.001) > eaps(0.8, 0.001) > eaps(0.8, 0.002)
    assert eaps(0.9, 0.001 * 7) == pytest.approx(eaps(0.9, 0.001) / 7)


def test_a_ratio_does_not_depend_on_units_or_the_order_of_repeats() -> None:
    one, other = runs(5), runs(5, 2.0)
    first = ratio(one, other)
    assert first.low < first.estimate < first.high
    order = [3, 1, 4, 0, 2]
    for again in (ratio(one * 381, other * 381), ratio(one[order], other[order])):
        assert (again.estimate, again.low, again.high) == pytest.approx((first.estimate, first.low, first.high))
    turned = ratio(other, one)
    assert (turned.low, turned.high) == pytest.approx((1 / first.high, 1 / first.low))


@pytest.mark.parametrize("n", [3, 5, 20])
def test_the_interval_is_students(n: int) -> None:
    one, other = runs(n), runs(n, 1.1)
    logs = np.log(one) - np.log(other)
    low, high = stats.t.interval(0.95, n - 1, logs.mean(), logs.std(ddof=1) / np.sqrt(n))
    found = ratio(one, other)
    assert (found.low, found.high) == pytest.approx((np.exp(low), np.exp(high)), rel=1e-12)
    assert found.p == pytest.approx(stats.ttest_rel(np.log(one), np.log(other)).pvalue)
    same = ratio([2.0] * n, [1.0] * n)
    assert (same.low, same.high, same.p) == (2, 2, 0)


def test_holms_adjustment() -> None:
    # the textbook's example, and what R's p.adjust gives
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1.0, 1.0])
    assert len(holm([])) == 0


@pytest.mark.parametrize("n", [3, 5, 10])
def test_a_detectable_difference_is_found_in_four_of_five_cases(n: int) -> None:
    noise = RNG.normal(0, 1, n)
    one = np.exp((noise - noise.mean()) / noise.std(ddof=1) * 0.05)
    difference = np.log(detectable(one, np.ones(n)))
    drawn = RNG.normal(difference, 0.05, (4000, n))
    assert np.mean(stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.03)


def test_what_all_repeats_share_does_not_widen_the_interval() -> None:
    day = runs(5, noise=2.0)
    one, other = runs(5), runs(5, 1.5)
    assert ratio(one * day, other * day).high == pytest.approx(ratio(one, other).high)


def test_two_repeats_prove_nothing() -> None:
    assert ratio([1, 1], [2, 2]).high == float("inf")
    assert set(winners({"a": [5.0, 5.0], "b": [1.0, 1.0]})) == {"a", "b"}


@pytest.mark.parametrize("n", [3, 5])
def test_the_interval_misses_as_often_as_it_says(n: int) -> None:
    missed = sum(ratio(runs(n), runs(n)).excludes(1.0) for _ in range(400))
    assert missed / 400 == pytest.approx(0.05, abs=0.035)


@pytest.mark.parametrize("n", [3, 5])
def test_identical_methods_tie(n: int) -> None:
    named = sum(len(winners({name: runs(n) for name in "abcd"})) == 1 for _ in range(100))
    assert named <= 5


LOOKS = range(3, 11)


@pytest.mark.parametrize(("methods", "tables"), [("ab", 100), pytest.param("abcd", 1000, marks=pytest.mark.slow)])
def test_who_looks_after_every_seed_errs_no_more_often(methods: str, tables: int) -> None:
    """Of tables without a difference, at most 5% name a winner at any of eight looks (of two methods, 2.8%);
    uncorrected, more do (16.6%)."""
    rng = np.random.default_rng(0)
    drawn = [{name: np.exp(rng.normal(0, 0.05, max(LOOKS))) for name in methods} for _ in range(tables)]

    def errs_more(looks: int) -> bool:
        named = [
            any(len(winners({name: table[name][:n] for name in table}, looks)) == 1 for n in LOOKS) for table in drawn
        ]
        return bool(stats.binomtest(sum(named), tables, 0.05, alternative="greater").pvalue < 0.01)

    assert not errs_more(len(LOOKS))
    assert len(methods) > 2 or errs_more(1)


def test_two_methods_are_told_to_be_equal_only_if_they_are() -> None:
    rng = np.random.default_rng(0)

    def told(factor: float) -> float:
        pairs = np.exp(rng.normal(0, 0.02, (60, 2, max(LOOKS))))
        pairs[:, 0] *= factor
        return float(np.mean([any(found(equality(*pair[:, :n], len(LOOKS))) for n in LOOKS) for pair in pairs]))

    assert told(EQUAL) <= 0.05
    assert told(1 / EQUAL) <= 0.05
    assert told(1.0) >= 0.5
    one, other = runs(5, 1.01, 0.02), runs(5, 1.0, 0.02)
    margin = np.log(EQUAL)
    sides = [(-margin, "greater"), (margin, "less")]
    each = [stats.ttest_1samp(np.log(one / other), edge, alternative=side).pvalue for edge, side in sides]
    assert equality(one, other) == pytest.approx(max(each))
    assert equality([1.0, 1.0, 1.0], [1.0, 1.0, 1.0]) == 0
    assert equality([1.0, 1.0], [1.0, 1.0]) == equality([1.0, 1.0, np.nan], [1.0, 1.0, 1.0]) == 1


def test_the_interval_of_many_looks_is_wider_and_agrees_with_its_p() -> None:
    one, other = runs(5), runs(5, 1.1)
    once, often = ratio(one, other), ratio(one, other, 8)
    assert often.low < once.low < once.high < often.high
    assert often.p == pytest.approx(min(1, 8 * once.p))
    assert found(often.p) == often.excludes(1.0)


def test_nothing_is_known_of_a_run_that_failed() -> None:
    for other in ([1.0, 1.0, 0.0], [1.0, 1.0, float("nan")]):
        assert set(winners({"a": [1.0, 1.0, 1.0], "b": other})) == {"a", "b"}


def test_a_clear_winner_is_named_and_close_ones_tie() -> None:
    named = [winners({"a": runs(3, 2.0), "b": runs(3), "c": runs(3, 1.2)}) for _ in range(50)]
    assert sum(won == ["a"] for won in named) >= 48
    close = winners({"a": [2.0, 2.1, 1.9], "b": [1.95, 2.12, 1.93], "c": [1.0, 1.0, 1.01]})
    assert sorted(close) == ["a", "b"]


def test_the_front_holds_what_nothing_beats() -> None:
    points = {"best": (0.95, 5.0), "cheap": (0.9, 1.0), "worse": (0.9, 2.0), "middle": (0.93, 2.0), "bad": (0.5, 9.0)}
    assert pareto(points) == ["best", "middle", "cheap"]
    assert pareto({name: (f1, 1e3 * e) for name, (f1, e) in points.items()}) == ["best", "middle", "cheap"]
    assert sorted(pareto({"a": (0.9, 1.0), "b": (0.9, 1.0)})) == ["a", "b"]
