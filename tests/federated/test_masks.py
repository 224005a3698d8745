"""Masked sums: the sum to the bit, and nothing else, whoever is late, absent or lying."""

import random
from functools import reduce
from operator import add

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from scipy import stats

from jobs import make_job, split_of
from masked import Sites, called, drawn, plain_sum, same, seen_through
from scfl_green.data.features.sums import GeneSums
from scfl_green.data.reading.cells import Cells
from scfl_green.energy.meter import EnergyMeter
from scfl_green.federated import masker
from scfl_green.federated.masked_sums import LINEAR_VALUES, LOGGED_VALUES, Federated, gene_arrays, gene_sums
from scfl_green.federated.masker import SiteKey
from scfl_green.federated.masks import unmasked_sum
from scfl_green.federated.spans import BLOCK, Span
from scfl_green.models.calibration import BINS, histogram
from scfl_green.training.survey import SUMS
from scfl_green.training.survey import calibration_sums as answer


def test_gene_sums_of_four_studies_are_those_without_masks_to_the_bit(pancreas: Cells) -> None:
    split = split_of(pancreas)
    parts, n_types, n_genes = split.clients, len(pancreas.types), pancreas.counts.shape[1]
    agreed, sites = Federated(len(parts), sum(len(part.train) for part in parts.values())), Sites.new([*parts])
    linear = {name: GeneSums.linear(pancreas, part.train, True) for name, part in parts.items()}
    logged = {name: GeneSums.logged(pancreas, part.train, True) for name, part in parts.items()}
    asked = {
        "linear": (linear, agreed.genes(1, n_genes, LINEAR_VALUES)),
        "logged": (logged, agreed.genes(n_types, n_genes, LOGGED_VALUES)),
    }
    for step, (sums, form) in asked.items():
        question = sites.question(form, step=step)
        got = gene_sums(sites.summed(question, {name: gene_arrays(told) for name, told in sums.items()}))
        expected = reduce(add, (GeneSums.unpacked(told.packed(), n_genes) for told in sums.values()))
        for name in ("n", "values", "squares"):
            assert np.array_equal(getattr(got, name), getattr(expected, name)), name


def test_calibration_is_that_without_masks_to_the_bit(few: Cells, meter: EnergyMeter) -> None:
    job = make_job(few, meter)
    parts, (n_types, n_genes) = job.split.clients, (job.model.n_types, job.features.n_genes)
    agreed, sites = Federated(len(parts), len(few)), Sites.new([*parts])
    told = {name: dict(answer(job, part, job.initial, {})) for name, part in parts.items()}
    sums = sites.summed(sites.question(agreed.profiles(n_types, n_genes), step="first"), told)
    assert same(sums, plain_sum(told))
    question = {"temperature": np.array([1.0])} | {name: sums[name] for name in SUMS}
    shapes = {"scores": (n_types, BINS), "novelty": (BINS,)}
    counts = {}
    for name, part in parts.items():
        rows = answer(job, part, job.initial, question)
        counts[name] = {kind: histogram(rows[kind].astype(np.int64), shape) for kind, shape in shapes.items()}
    second = sites.summed(sites.question(agreed.histograms(n_types), step="second"), counts)
    assert same(second, plain_sum(counts))
    assert second["novelty"].sum() == sum(len(part.validation) for part in parts.values())


@pytest.mark.parametrize("n", range(2, 21))
def test_the_sum_is_exact_for_any_sites_in_any_order(n: int) -> None:
    names = called(n)
    sites, values = Sites.new(names, least_sites=2), drawn(names, seed=n)
    question = sites.question()
    random.Random(n).shuffle(names)
    answers = sites.answers(question, {name: values[name] for name in names})
    reveals = sites.reveals(question, names)
    assert same(unmasked_sum(question, answers, reveals), plain_sum(values))
    assert same(unmasked_sum(question, dict(reversed(answers.items())), reveals), plain_sum(values))


def test_sums_reach_both_ends_of_their_range() -> None:
    names, form = called(3), {"a": Span((2,), -(2**61), 2**61), "b": Span((1,), 0, 0), "c": Span((2,), -7, 0)}
    ends = {"a": np.array([-(2**61), 2**61]), "b": np.zeros(1, np.int64), "c": np.array([-7, 0])}
    nothing = {name: np.zeros(span.shape, np.int64) for name, span in form.items()}
    sites = Sites.new(names)
    assert same(sites.summed(sites.question(form), {names[0]: ends, names[1]: nothing, names[2]: nothing}), ends)


def test_a_sum_out_of_range_is_noticed() -> None:
    names, form = called(3), {"a": Span((1,), 0, 5)}
    sites = Sites.new(names)
    with pytest.raises(ValueError, match="sums above 5"):
        sites.summed(sites.question(form), {name: {"a": np.array([2])} for name in names})


@pytest.mark.parametrize("bits", [1, 7, 8, 9, 31, 43, 61])
@pytest.mark.parametrize("size", [0, 1, 9, BLOCK + 3])
def test_packed_numbers_take_their_bits_and_come_back(bits: int, size: int) -> None:
    span = Span((size,), 0, 2**bits - 1)
    numbers = np.random.default_rng(bits).integers(0, 2**bits, size, dtype=np.uint64)
    packed = span.packed(numbers + np.uint64(0))
    assert packed.nbytes == span.n_bytes == -(-size * bits // 8)
    assert np.array_equal(span.unpacked(packed), numbers)


@pytest.mark.parametrize(("low", "high"), [(1, 5), (-5, -1), (0, 2**62), (-(2**63), 0)])
def test_a_range_that_is_none_is_refused(low: int, high: int) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        Span((1,), low, high)


# Drop-outs.


@pytest.mark.parametrize("gone", [1, 2, 3])
def test_the_sum_of_those_that_answered_is_exact(gone: int) -> None:
    names = called(6)
    sites, values = Sites.new(names), drawn(names)
    question, left = sites.question(), names[gone:]
    answers = sites.answers(question, {name: values[name] for name in left})
    assert same(unmasked_sum(question, answers, sites.reveals(question, left)), plain_sum(values, left))


def test_the_attack_of_the_next_tests_finds_an_answer_whose_own_mask_is_not_hidden() -> None:
    names = called(4)
    sites, values = Sites.new(names), drawn(names)
    question = sites.question()
    answers = sites.answers(question, values)
    late, *rest = names
    reveals = sites.reveals(question, rest)
    bare = np.zeros((4, 32), np.uint8)
    bare[0] = np.frombuffer(sites.maskers[late].last[1], np.uint8)
    assert seen_through(question, answers[late], {**reveals, late: bare}, late)


def test_an_answer_that_comes_late_reveals_nothing() -> None:
    names = called(4)
    sites, values = Sites.new(names), drawn(names)
    question = sites.question()
    answers = sites.answers(question, values)
    late, *rest = names
    reveals = sites.reveals(question, rest)
    assert same(unmasked_sum(question, {name: answers[name] for name in rest}, reveals), plain_sum(values, rest))
    assert not seen_through(question, answers[late], reveals, late)


def test_a_server_that_names_different_sites_as_absent_learns_no_answer() -> None:
    """It tells all others that one is absent, and this one that another is."""
    names = called(4)
    sites, values = Sites.new(names), drawn(names)
    question = sites.question()
    answers = sites.answers(question, values)
    reveals = sites.reveals(question, names[1:])
    reveals[names[0]] = sites.maskers[names[0]].reveal(question, names[:3])
    for site in names:
        assert not seen_through(question, answers[site], reveals, site)
    with pytest.raises(ValueError, match="do not cancel"):
        unmasked_sum(question, answers, reveals)


def test_a_second_answer_to_one_question_has_other_masks_and_is_summed_as_well() -> None:
    names = called(3)
    sites, values = Sites.new(names), drawn(names)
    question = sites.question()
    before = sites.answers(question, values)
    again = sites.answers(question, values)
    assert all((before[name]["signed"] != again[name]["signed"]).mean() > 0.9 for name in names)
    reveals = sites.reveals(question, names)
    assert same(unmasked_sum(question, again, reveals), plain_sum(values))
    with pytest.raises(ValueError, match="do not cancel"):
        unmasked_sum(question, before, reveals)


# What the server notices.


def test_the_server_names_a_site_whose_answer_has_another_form_and_notices_other_masks() -> None:
    names = called(3)
    sites, values = Sites.new(names), drawn(names)
    question = sites.question()
    answers = sites.answers(question, values)
    reveals, bad = sites.reveals(question, names), names[1]
    for false in (
        {},
        {**answers[bad], "more": np.zeros(1, np.uint8)},
        {**answers[bad], "counts": answers[bad]["counts"][:-1]},
        {**answers[bad], "counts": answers[bad]["counts"].astype(np.int64)},
    ):
        with pytest.raises(ValueError, match="site 1: "):
            unmasked_sum(question, {**answers, bad: false}, reveals)
    for rows in (reveals[bad][:-1], reveals[bad].astype(float)):
        with pytest.raises(ValueError, match="site 1: a reveal"):
            unmasked_sum(question, answers, {**reveals, bad: rows})
    for part in (names[:2], [*names, "nobody"], []):
        with pytest.raises(ValueError, match=f"answers of {len(part)} sites"):
            unmasked_sum(question, {name: answers.get(name, {}) for name in part}, reveals)
    with pytest.raises(ValueError, match="do not cancel"):
        unmasked_sum(question, answers, {**reveals, bad: reveals[bad] ^ np.uint8(1)})
    with pytest.raises(ValueError, match="do not cancel"):
        unmasked_sum(question, answers, {**reveals, bad: reveals[names[0]]})


# What it sees.


@pytest.fixture
def sites(monkeypatch: pytest.MonkeyPatch) -> Sites:
    """Three whose keys and masks come from one seed, so that no test here fails by chance."""
    rng = np.random.default_rng(20170830)
    monkeypatch.setattr(masker.os, "urandom", rng.bytes)
    made = Sites.new(called(3))
    for one in made.maskers.values():
        private = X25519PrivateKey.from_private_bytes(rng.bytes(32))
        one.key = SiteKey(private, private.public_key().public_bytes_raw())
    return made


@pytest.mark.parametrize("bits", [8, 9, 43, 56])
@pytest.mark.parametrize("value", [0, 1])
def test_a_masked_answer_looks_uniform(sites: Sites, bits: int, value: int) -> None:
    """Pearson's chi-square over the values of bytes, and over the residues of the numbers modulo 251."""
    form = {"counts": Span((2**16,), 0, 2**bits - 1)}
    values = {"counts": np.full(2**16, value)}
    masked = sites.maskers["site 0"].masked(sites.question(form), values)["counts"]
    counts = np.bincount(masked, minlength=256)
    assert 0.001 < stats.chisquare(counts).pvalue < 0.999
    highest = form["counts"].unpacked(masked) >> np.uint64(bits - 8)
    assert 0.001 < stats.chisquare(np.bincount(highest.astype(int), minlength=256)).pvalue < 0.999


def test_two_answers_of_a_site_to_one_question_differ_everywhere(sites: Sites) -> None:
    span = Span((2**16,), 0, 2**56 - 1)
    values = {"counts": np.arange(2**16)}
    one, two = (
        span.unpacked(sites.maskers["site 0"].masked(sites.question({"counts": span}, attempt), values)["counts"])
        for attempt in (1, 2)
    )
    assert (one != two).all()
    assert abs(stats.pearsonr(one.astype(float), two.astype(float)).statistic) < 0.02


def test_sites_have_different_masks_with_each_other_for_every_purpose(sites: Sites) -> None:
    question, again = sites.question(), sites.question(attempt=2)
    seeds = {
        one._mask(asked, peer)
        for asked in (question, again)
        for one in sites.maskers.values()
        for peer in one._peers(asked)
    }
    assert len(seeds) == 2 * 3  # one for each pair, and for each attempt
