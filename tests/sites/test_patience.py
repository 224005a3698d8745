"""Waiting for a server: how long, and with how many words."""

import logging

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from processes import free_port

from scfl_green.errors import InputError
from scfl_green.sites.envelope import PART_BYTES, opened, sealed
from scfl_green.sites.patience import Patience, pause_seconds


def test_a_server_that_does_not_come_is_given_up_in_a_sentence(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "scfl_green")
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(InputError, match=f"{address}: no answer .*refused"):
        Patience(address, limit_seconds=4).invoke(httpx.get, f"http://{address}")
    assert len(caplog.records) == 1


def test_a_refusal_is_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "scfl_green")
    tries = []

    def refuse() -> None:
        tries.append(1)
        request = httpx.Request("POST", "https://x")
        status = 503 if len(tries) == 1 else 401
        raise httpx.HTTPStatusError("", request=request, response=httpx.Response(status, request=request))

    with pytest.raises(httpx.HTTPStatusError):
        Patience("x").invoke(refuse)
    assert len(tries) == 2


def test_work_waits_little_and_an_idle_machine_is_left_alone() -> None:
    for silence in np.linspace(0, 1000, 101):
        pause = pause_seconds(silence, 0.1, 3.0)
        assert 0.2 <= pause <= 3.0
        assert pause <= max(0.2, silence / 60)
    assert pause_seconds(1e6, 0.1, 3.0) == pause_seconds(0.0, 30.0, 3.0) == 3.0
    assert pause_seconds(0.0, 1.5, 3.0) == 1.5


@pytest.mark.parametrize("n_bytes", [0, 1, 2 * PART_BYTES])
def test_what_was_sealed_is_opened_equal_and_in_few_parts(n_bytes: int) -> None:
    array = np.frombuffer(np.random.default_rng(0).bytes(n_bytes), np.uint8)
    content = RecordDict({f"r{k:02}": ConfigRecord({"k": k}) for k in range(12)})
    content["metrics"], content["arrays"] = MetricRecord({"x": 0.1}), ArrayRecord({"x": Array(array)})
    parts = sealed(content)
    assert len(parts) <= (n_bytes + 1000) // PART_BYTES + 1
    assert max(len(part["part"]) for part in parts.config_records.values()) <= PART_BYTES
    assert sealed(content).object_id == parts.object_id
    back = opened(parts)
    np.testing.assert_array_equal(back.pop("arrays")["x"].numpy(), content.pop("arrays")["x"].numpy())
    assert dict(back) == dict(content)
