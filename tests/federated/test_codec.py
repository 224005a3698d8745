"""Codecs: fewer bytes, and weights that both sides agree on."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message
from flwr.serverapp.strategy import FedAdam, FedAvg, FedProx

from conftest import compose_config
from jobs import ONE, in_child, make_job, simulated
from scfl_green.data.reading.cells import Cells
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.federated import Half, Largest, Rows
from scfl_green.federated import site as sites
from scfl_green.federated.codec import Codec, decode, encode
from scfl_green.runs.run import run
from scfl_green.training.checkpoint import Checkpoint
from scfl_green.training.pruning import Prune

CODECS: dict[str, Codec] = {"float16": Half(), "int8": Rows(8), "int4": Rows(4), "topk": Largest(0.1)}
SHARES = {"float16": 0.5, "int8": 0.25, "int4": 0.125, "topk": 0.1 * 9 / 4}
RNG = np.random.default_rng(0)
BASE = {"w": RNG.normal(size=(50, 301)).astype("f4"), "b": np.zeros(50, "f4"), "n": np.array(3)}
NEW = {"w": BASE["w"] + RNG.normal(size=(50, 301)).astype("f4") / 100, "b": np.ones(50, "f4"), "n": np.array(4)}


@pytest.mark.parametrize("name", CODECS)
def test_a_code_is_short_and_stands_for_about_the_same(name: str) -> None:
    code = encode(CODECS[name], NEW, BASE, np.random.default_rng(1))
    size = sum(len(array.data) for array in code.values())
    assert size < SHARES[name] * 4 * 50 * 301 + 2_000
    again = encode(CODECS[name], NEW, BASE, np.random.default_rng(1))
    assert [array.data for array in code.values()] == [array.data for array in again.values()]
    told = decode(CODECS[name], code, BASE)
    assert (told["b"] == NEW["b"]).all()
    assert told["n"] == NEW["n"]
    assert told["w"].dtype == np.float32
    left = NEW["w"] - told["w"]
    assert np.abs(left).mean() < np.abs(NEW["w"] - BASE["w"]).mean()
    if name != "topk":
        assert abs(left.mean()) < 1e-4  # rounding favours no side


@pytest.mark.parametrize("name", CODECS)
def test_what_codes_leave_out_is_sent_in_the_end(name: str) -> None:
    held, left = dict(BASE), np.zeros_like(BASE["w"])
    for number in range(60):  # towards weights that do not move any more
        code = encode(CODECS[name], NEW | {"w": NEW["w"]}, held, np.random.default_rng(number))
        held = decode(CODECS[name], code, held)
        left = NEW["w"] - held["w"]
    assert np.abs(left).max() < 2e-3 * np.abs(NEW["w"] - BASE["w"]).max()


def hostile(code: ArrayRecord, part: str, change: Callable[[np.ndarray], np.ndarray]) -> ArrayRecord:
    return ArrayRecord({name: Array(change(a.numpy())) if name.endswith(part) else a for name, a in code.items()})


@pytest.mark.parametrize(
    ("name", "part", "change"),
    [
        ("int8", "scales", lambda scales: scales * np.nan),
        ("int8", "scales", lambda scales: -scales),
        ("int8", "scales", lambda scales: np.append(scales, 1).astype("f4")),
        ("int8", "codes", lambda codes: codes[:-1]),
        ("int4", "codes", lambda codes: codes.astype("u2")),
        ("float16", "half", lambda half: half + np.float16(np.inf)),
        ("topk", "places", lambda places: places[::-1].copy()),
        ("topk", "places", lambda places: np.full_like(places, places[0])),
        ("topk", "places", lambda places: places + np.uint32(2**31)),
        ("topk", "b", lambda bias: bias.astype("f8")),
    ],
)
def test_a_code_that_nobody_can_have_made_is_refused(name: str, part: str, change: Any) -> None:
    code = encode(CODECS[name], NEW, BASE, np.random.default_rng(1))
    with pytest.raises(ValueError, match=r"values|scales|form|places"):
        decode(CODECS[name], hostile(code, part, change), BASE)
    with pytest.raises(ValueError, match="other names"):
        decode(CODECS[name], ArrayRecord({**code, "more": Array(np.zeros(1))}), BASE)


def moved(meter: EnergyMeter, train: Callable[[], Any]) -> tuple[Any, int]:
    before = sum(meter.moved())
    result = train()
    return result, sum(meter.moved()) - before


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("strategy", [FedAvg, FedProx, FedAdam])
def test_a_federation_learns_from_codes_and_repeats_to_the_bit(
    few: Cells, meter: EnergyMeter, name: str, strategy: type[FedAvg]
) -> None:
    settings: dict[str, Any] = ONE | ({"proximal_mu": 0.1} if strategy is FedProx else {})

    def train(codec: Codec | None = CODECS[name], **how: Any) -> Any:
        return simulated(make_job(few, meter), strategy(**settings), rounds=3, codec=codec, **how).weights

    whole, sent = moved(meter, lambda: train(None))
    coded, fewer = moved(meter, train)
    assert fewer < 0.75 * sent
    again = train(parallel_clients=2) if strategy is FedAvg else train()
    assert all(torch.equal(coded[key], again[key]) for key in coded)
    assert not all(torch.equal(coded[key], whole[key]) for key in coded)
    change = sum(float((coded[key] - whole[key]).float().norm()) for key in coded)
    assert change < 0.5 * sum(float(whole[key].float().norm()) for key in whole)


def test_pruned_weights_are_sent_whole_and_then_coded(few: Cells, meter: EnergyMeter) -> None:
    hooks = {"prune": Prune(0.5, after_round=1, after_epoch=1)}
    weights = simulated(make_job(few, meter, hooks=hooks), rounds=3, codec=Rows(8)).weights
    whole = make_job(few, meter).initial
    assert sum(w.numel() for w in weights.values()) < 0.7 * sum(w.numel() for w in whole.values())


def test_a_reply_that_is_no_code_is_refused_and_the_others_go_on(
    few: Cells, meter: EnergyMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = sites.HoldWeights.__call__

    def spoils(mod: sites.HoldWeights, message: Message, context: Any, call_next: Any) -> Message:
        reply = call(mod, message, context, call_next)
        if context.node_id == 1 and message.metadata.message_type == "train":
            arrays = reply.content["arrays"]
            reply.content["arrays"] = hostile(arrays, "scales", lambda scales: scales * np.nan)
        return reply

    monkeypatch.setattr(sites.HoldWeights, "__call__", spoils)
    result = simulated(make_job(few, meter), rounds=2, codec=Rows(8), min_clients=1)
    assert len(result.record["refused"]) >= 2
    assert all("names differ" in line for line in result.record["refused"])
    assert all(value.isfinite().all() for value in result.weights.values())


@pytest.mark.parametrize("name", ["int8", "topk"])
def test_a_killed_federation_goes_on_with_the_same_codes(
    few: Cells, meter: EnergyMeter, tmp_path: Path, name: str
) -> None:
    def train(checkpoint: Checkpoint, kill_after: int = 0) -> Any:
        saves = 0

        def save(parts: dict[str, Any]) -> None:
            nonlocal saves
            checkpoint.save(parts)
            saves += 1
            if saves == kill_after:
                signal.raise_signal(signal.SIGKILL)

        job = make_job(few, meter, saved=checkpoint.parts, save=save)
        return simulated(job, rounds=4, codec=CODECS[name]).weights

    whole = train(Checkpoint(tmp_path / "whole"))
    assert in_child(lambda: train(Checkpoint(tmp_path / "killed"), 2)) == -signal.SIGKILL
    again = train(Checkpoint(tmp_path / "killed"))
    assert all(torch.equal(whole[key], again[key]) for key in whole)


@pytest.mark.parametrize("override", ["opt=compress", "message=int4"])
def test_regimes_that_send_nothing_refuse_a_codec(tmp_path: Path, override: str) -> None:
    with pytest.raises(InputError, match="other regimes send nothing"):
        run(compose_config(tmp_path, override, "regime=central", "logger=none"))
