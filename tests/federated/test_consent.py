"""What a site refuses to answer, and to reveal."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes

from masked import AGREED, Sites, called, drawn, plain_sum, same
from scfl_green.errors import InputError
from scfl_green.federated.consent import Consent, RefusedError
from scfl_green.federated.masker import Masker, SiteKey


def refuses(match: str) -> "pytest.RaisesExc[RefusedError]":
    return pytest.raises(RefusedError, match=match)


def test_a_site_refuses_a_sum_over_too_few() -> None:
    names = called(4)
    sites, values = Sites.new(names), drawn(names)
    with refuses("over 2 sites, where at least 3"):
        sites.answers(sites.question(of=names[:2]), {names[0]: values[names[0]]})
    question = sites.question()
    sites.answers(question, values)
    with refuses("over 2 sites, where at least 3"):
        sites.reveals(question, names[:2])
    with pytest.raises(InputError, match="least_sites=1"):
        Consent(least_sites=1)


def test_a_site_refuses_its_own_absence() -> None:
    names = called(5)
    sites, values = Sites.new(names), drawn(names)
    without, swapped = sites.question(of=names[1:]), sites.question()
    swapped = replace(swapped, keys={**swapped.keys, names[0]: SiteKey.new(AGREED, names[0]).told})
    for question in (without, swapped):
        with refuses("its own key"):
            sites.answers(question, {names[0]: values[names[0]]})
    question = sites.question()
    sites.answers(question, values)
    with refuses("other sites than those of the question"):
        sites.maskers[names[0]].reveal(question, names[1:])
    with refuses("other sites than those of the question"):
        sites.maskers[names[0]].reveal(question, [*names[:3], "nobody"])
    with refuses("other sites than those of the question"):
        sites.maskers[names[0]].reveal(question, [*names[:3], names[0]])


@pytest.mark.parametrize("key", [bytes(32), b"short", b""])
def test_a_site_refuses_a_key_that_is_none(key: bytes) -> None:
    names = called(3)
    sites, values = Sites.new(names), drawn(names)
    question = sites.question()
    with refuses("a key that is none"):
        sites.answers(replace(question, keys={**question.keys, names[2]: key}), {names[0]: values[names[0]]})


def test_a_site_refuses_one_key_for_two() -> None:
    names = called(4)
    sites, values = Sites.new(names), drawn(names)
    question = sites.question()
    twice = replace(question, keys={**question.keys, names[2]: question.keys[names[1]] + b"signed otherwise"})
    with refuses("two sites have the same key"):
        sites.answers(twice, {names[0]: values[names[0]]})


def test_a_site_refuses_another_set_of_sites_than_that_of_before() -> None:
    """Two sums that differ by a site tell that site's part."""
    names = called(5)
    sites, values = Sites.new(names), drawn(names)
    sites.summed(sites.question(step="first"), values)
    fewer = sites.question(step="second", of=names[1:])
    with refuses("leave out some of those summed before"):
        sites.answers(fewer, {names[1]: values[names[1]]})
    whole = sites.question(step="second")
    sites.answers(whole, {name: values[name] for name in names[1:]})
    with refuses("over 4 sites that are not those 5 of before"):
        sites.reveals(whole, names[1:])
    # With all of them back, the next attempt goes on.
    assert same(sites.summed(sites.question(step="second", attempt=2), values), plain_sum(values))


def test_fewer_sites_are_possible_where_all_of_them_allow_it_but_not_others() -> None:
    names = called(5)
    sites, values = Sites.new(names, may_shrink=True), drawn(names)
    left = names[1:]
    first = sites.question(step="first")
    sites.answers(first, {name: values[name] for name in left})
    sites.reveals(first, left)
    second = sites.question(step="second", of=names[2:])
    assert same(sites.summed(second, {name: values[name] for name in names[2:]}), plain_sum(values, names[2:]))
    third = sites.question(step="third")
    sites.answers(third, values)
    with refuses("over 5 sites that are not those 3 of before"):
        sites.maskers[names[4]].reveal(third, names)


def test_a_site_reveals_for_one_sum_and_repeats_no_other() -> None:
    names = called(5)
    sites, values = Sites.new(names, may_shrink=True), drawn(names)
    question, site = sites.question(), sites.maskers[names[0]]
    with refuses("other than the last answered"):
        site.reveal(question, names)
    sites.answers(question, values)
    once = site.reveal(question, names)
    assert np.array_equal(once, site.reveal(question, names[::-1]))
    with refuses("one question for two sums"):
        site.reveal(question, names[:4])
    with refuses("asked again what has been summed"):
        site.masked(question, values[names[0]])


def test_a_site_answers_so_many_attempts_and_no_more() -> None:
    names = called(3)
    sites, values = Sites.new(names, most_attempts=2), drawn(names)
    site, own = sites.maskers[names[0]], values[names[0]]
    for attempt in (0, 3):
        with refuses(f"attempt {attempt} at step"):
            site.masked(sites.question(attempt=attempt), own)
    for attempt in (1, 2):
        site.masked(sites.question(attempt=attempt), own)
    with refuses("after 2 answers"):
        site.masked(sites.question(attempt=2), own)
    site.masked(sites.question(step="another"), own)


def test_a_key_that_the_server_has_exchanged_is_noticed_with_node_keys() -> None:
    names, values = called(3), drawn(called(3))
    nodes = {name: generate_key_pairs() for name in names}
    known = {name: public_key_to_bytes(public) for name, (_, public) in nodes.items()}
    sites = Sites({n: Masker(n, SiteKey.new(AGREED, n, nodes[n][0]), Consent(node_keys=known)) for n in names})
    question = sites.question()
    assert same(sites.summed(question, values), plain_sum(values))
    other = generate_key_pairs()[0]
    signature = question.keys[names[2]][32:]
    for false in (
        SiteKey.new(AGREED, names[2]).told,
        SiteKey.new(AGREED, names[2]).told + signature,
        SiteKey.new(AGREED, names[2], other).told,
        SiteKey.new("another agreement", names[2], nodes[names[2]][0]).told,
        SiteKey.new(AGREED, names[1], nodes[names[2]][0]).told,
    ):
        with refuses(f"the key of {names[2]} is not signed"):
            sites.maskers[names[0]].masked(replace(question, keys={**question.keys, names[2]: false}), values[names[0]])
    stranger = replace(question, keys={**question.keys, "a stranger": SiteKey.new(AGREED, "a stranger", other).told})
    with refuses("a stranger has no known node key"):
        sites.maskers[names[0]].masked(stranger, values[names[0]])


@pytest.mark.parametrize(
    "wrong", [np.full((7, 3), 1001), np.full((7, 3), -1), np.zeros((3, 7), int), np.zeros((7, 3)), None]
)
def test_sums_of_another_form_are_an_error_before_anything_is_told(wrong: np.ndarray | None) -> None:
    names = called(3)
    sites, values = Sites.new(names), drawn(names)[names[0]]
    given = {key: value for key, value in (values | {"counts": wrong}).items() if value is not None}
    with pytest.raises(InputError, match="counts: its sums are not integers from 0 to 1000"):
        sites.maskers[names[0]].masked(sites.question(), given)
    assert not sites.maskers[names[0]].consent.answered
