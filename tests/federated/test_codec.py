"""Codecs: fewer bytes, and weights that both sides agree on."""

import signal
import zlib
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
from scfl_green.federated import Half, Largest, Rows, hold
from scfl_green.federated.codec import DEFLATED, Codec, _compressed, decode, encode
from scfl_green.runs.run import run
from scfl_green.training.checkpoint import Checkpoint
from scfl_green.training.pruning import Prune

CODECS: dict[str, Codec] = {"float16": Half(), "int8": Rows(8), "int4": Rows(4), "topk": Largest(0.1, bits=6)}
# Bits for each of the normally distributed changes below.
MOST_BITS = {"float16": 15, "int8": 7.6, "int4": 3.5, "topk": 1.2}
RNG = np.random.default_rng(0)
BASE = {"w": RNG.normal(size=(50, 301)).astype("f4"), "b": np.zeros(50, "f4"), "n": np.array(3)}
NEW = {"w": BASE["w"] + RNG.normal(size=(50, 301)).astype("f4") / 100, "b": np.ones(50, "f4"), "n": np.array(4)}


@pytest.mark.parametrize("name", CODECS)
def test_a_code_is_short_and_stands_for_about_the_same(name: str) -> None:
    code, stands_for = encode(CODECS[name], NEW, BASE, np.random.default_rng(1))
    size = sum(len(array.data) for array in code.values())
    assert size < MOST_BITS[name] / 8 * 50 * 301 + 1_000
    again, _ = encode(CODECS[name], NEW, BASE, np.random.default_rng(1))
    assert [array.data for array in code.values()] == [array.data for array in again.values()]
    told = decode(CODECS[name], code, BASE)
    assert all((told[key] == value).all() for key, value in stands_for.items())
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
        _, held = encode(CODECS[name], NEW, held, np.random.default_rng(number))
        left = NEW["w"] - held["w"]
    assert np.abs(left).max() < 2e-3 * np.abs(NEW["w"] - BASE["w"]).max()


def hostile(code: ArrayRecord, change: Callable[[bytearray], bytes]) -> ArrayRecord:
    """With another code of ``w``, compressed as it should be."""
    w = code["w"]
    raw = bytearray(zlib.decompress(w.data, -zlib.MAX_WBITS))
    return ArrayRecord({**code, "w": Array(w.dtype, w.shape, w.stype, _compressed(bytes(change(raw))))})


def with_first(scale: float) -> Callable[[bytearray], bytes]:
    return lambda code: np.float32(scale).tobytes() + code[4:]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("int8", with_first(np.nan)),
        ("int8", with_first(-1)),
        ("int8", lambda code: code[:-1]),
        ("int8", lambda code: code + b"0"),
        ("int8", lambda code: code * 1000),
        ("float16", lambda code: np.float16(np.inf).tobytes() + code[2:]),
        ("topk", lambda code: bytes([code[0] ^ 1]) + code[1:]),
        ("topk", lambda code: bytes(len(code))),
    ],
)
def test_a_code_that_nobody_can_have_made_is_refused(name: str, change: Any) -> None:
    code, _ = encode(CODECS[name], NEW, BASE, np.random.default_rng(1))
    with pytest.raises(ValueError, match=r"values|scales|size|entries"):
        decode(CODECS[name], hostile(code, change), BASE)


@pytest.mark.parametrize(
    "change",
    [
        {"more": Array(np.zeros(1))},
        {"b": Array(NEW["b"].astype("f8"))},
        {"w": Array("float32", (50, 301), DEFLATED, b"")},
        {"w": Array("float32", (50, 301), DEFLATED, bytes(10**6))},
        {"w": Array(NEW["w"])},
    ],
    ids=str,
)
def test_arrays_that_are_no_code_are_refused(change: dict[str, Array]) -> None:
    code, _ = encode(Rows(8), NEW, BASE, np.random.default_rng(1))
    with pytest.raises(ValueError, match=r"names|form|code"):
        decode(Rows(8), ArrayRecord({**code, **change}), BASE)


def moved(meter: EnergyMeter, train: Callable[[], Any]) -> tuple[Any, int]:
    before = sum(meter.moved())
    result = train()
    return result, sum(meter.moved()) - before


@pytest.mark.parametrize(
    ("name", "strategy"), [*((name, FedAvg) for name in CODECS), ("int8", FedProx), ("int4", FedAdam)]
)
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
    call = hold.HoldWeights.__call__

    def spoils(mod: hold.HoldWeights, message: Message, context: Any, call_next: Any) -> Message:
        reply = call(mod, message, context, call_next)
        if context.node_id == 1 and message.metadata.message_type == "train":
            for array in reply.content["arrays"].values():
                array.data = array.data[:-1]
        return reply

    monkeypatch.setattr(hold.HoldWeights, "__call__", spoils)
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
