"""Weights travel once, and the weights that come of it are the same."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.serverapp.strategy import FedAvg

from jobs import ONE, make_job, simulated
from scfl_green.data.reading.cells import Cells
from scfl_green.energy.meter import EnergyMeter
from scfl_green.federated import apps, hold
from scfl_green.federated.grid import LocalGrid
from scfl_green.models.prune import Weights

ROUNDS = 3
MESSAGE = 2_000  # bytes that a message without weights takes at most


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def federation(few: Cells, meter: EnergyMeter, **options: Any) -> tuple[Weights, int, int]:
    """The weights, the bytes that all clients got, and the size of the weights."""
    _, down = meter.moved()
    weights = simulated(make_job(few, meter), FedAvg(**ONE | options), ROUNDS).weights
    size = sum(value.nbytes for value in weights.values())
    return weights, meter.moved()[1] - down, size


class Whole:
    """A grid that sends all weights whole."""

    spared = 0

    def __init__(self, grid: LocalGrid, *_: object) -> None:
        self.state_dict = dict[str, Any]
        self.get_node_ids, self.send_and_receive = grid.get_node_ids, grid.send_and_receive


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr(apps, "WeightsOnce", Whole)


def test_what_was_validated_is_not_sent_again(few: Cells, meter: EnergyMeter, whole: Callable[[], None]) -> None:
    once, down, size = federation(few, meter)
    n = len({entry.client for entry in meter.entries.values() if entry.phase == "fit"})
    spared = meter.total("aggregate").bytes_spared
    whole()
    twice, all_down, _ = federation(few, meter)
    assert same(once, twice)
    # Once after each round, since sites draw the untrained ones themselves; otherwise twice in each round.
    assert spared == pytest.approx(all_down - down, rel=0.02)
    for bytes_down, times in ((down, ROUNDS), (all_down, 2 * ROUNDS)):
        assert n * times * size < bytes_down < n * (times * (size + MESSAGE) + ROUNDS * MESSAGE)


@pytest.mark.parametrize("options", [{"fraction_evaluate": 0.5}, {"fraction_train": 0.5}], ids=str)
def test_sites_that_were_not_asked_to_validate_get_them_whole(
    few: Cells, meter: EnergyMeter, whole: Callable[[], None], options: dict[str, float]
) -> None:
    once, down, _ = federation(few, meter, **options)
    whole()
    twice, all_down, _ = federation(few, meter, **options)
    assert same(once, twice)
    assert down < all_down


def test_a_site_that_was_restarted_gets_them_whole(
    few: Cells, meter: EnergyMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    once, down, size = federation(few, meter)
    answer, answered = LocalGrid.answer, []

    def after_a_restart(grid: LocalGrid, request: bytes) -> bytes:
        reply = answer(grid, request)
        answered.append(grid)
        if len(answered) == 2 * len(grid.clients):  # training and validation
            grid.contexts[1] = Context(0, 1, grid.contexts[1].node_config, RecordDict(), {})
        return reply

    monkeypatch.setattr(LocalGrid, "answer", after_a_restart)
    again, more, _ = federation(few, meter)
    assert same(once, again)
    assert size < more - down < size + 2 * MESSAGE


def test_a_site_that_forgets_everything_takes_part(
    few: Cells, meter: EnergyMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgets(mod: Any, message: Message, context: Context, call_next: Callable[..., Message]) -> Message:
        context.state.clear()
        return hold_weights(mod, message, context, call_next)

    hold_weights = hold.HoldWeights.__call__
    once, down, size = federation(few, meter)
    monkeypatch.setattr(hold.HoldWeights, "__call__", forgets)
    again, more, _ = federation(few, meter)
    assert same(once, again)
    assert more > down + size
