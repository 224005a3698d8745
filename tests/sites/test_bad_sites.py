"""What a hostile site, one at fault, or one that has changed can do to a run: it is left out, or ends it in a line."""

import hashlib
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from conftest import compose_config
from scfl_green.data.wire import packed_text, unpacked_text
from scfl_green.errors import InputError
from scfl_green.federated.once import numpy_of, record_of
from scfl_green.runs.run import run
from scfl_green.sites.answering import USED, received
from sites.loop import Loop, linked, settings_of, studies

SHORT = ("data=sites", "federation.rounds=2", "federation.local_epochs=1", "data.n_genes=50", "logger=none")
Spoil = Callable[[RecordDict], None]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every third cell of three studies."""
    made = studies(tmp_path_factory.mktemp("studies"))
    for name in ("muraro", "tosti", "tritschler"):
        ad.read_h5ad(made[name])[::3].copy().write_h5ad(made[name])
    return {name: made[name] for name in ("muraro", "tosti", "tritschler")}


@pytest.fixture
def loop(tmp_path: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    with linked(monkeypatch, Loop(tmp_path / "sites", settings_of(files, limits={"min_cells": 1}))) as loop:
        yield loop


def trained(folder: Path, *overrides: str) -> dict[str, Any]:
    return run(compose_config(folder, *SHORT, "federation.min_cells=0", *overrides))


def spoil(loop: Loop, by_kind: Mapping[str, Spoil]) -> None:
    """Have muraro spoil its replies to messages of these kinds."""

    def altered(name: str, message: Message) -> Message | None:
        if name != "muraro":
            return None
        reply, kind = loop.answering[name](message, 0), message.metadata.message_type.removeprefix("query.")
        by_kind.get(kind, lambda content: None)(reply.content)
        return reply

    loop.altered = altered


def answer(change: Callable[[dict[str, np.ndarray]], dict[str, Any]]) -> Spoil:
    """Replaces some arrays of an answer."""

    def change_it(content: RecordDict) -> None:
        arrays = numpy_of(content["answer"])
        content["answer"] = record_of(arrays | change(arrays))

    return change_it


def told(**changed: Any) -> Spoil:
    return answer(lambda arrays: {"about": packed_text(unpacked_text(arrays["about"]) | changed)})


def unreadable(content: RecordDict) -> None:
    """Begins as an array that no memory holds."""
    header = {"descr": "<i8", "fortran_order": False, "shape": (10**15,)}
    np.lib.format.write_array_header_1_0(data := io.BytesIO(), header)
    content["answer"] = ArrayRecord({"cells": Array("int64", (3,), "numpy.ndarray", data.getvalue())})


def many_cells(content: RecordDict) -> None:
    content["metrics"]["num-examples"] = 10**9


# Rows that no site can have used.
ROWS: dict[str, Any] = {
    "a phase of the server": [{"phase": "aggregate", "round": 1}],
    "a phase that is none": [{"phase": ["fit"], "round": 1}],
    "a round that is none": [{"phase": "fit", "round": -1}],
    "bytes": [{"phase": "fit", "round": 1, "bytes_up": 1}],
    "less than nothing": [{"phase": "fit", "round": 1, "seconds": -1.0}],
    "no number": [{"phase": "fit", "round": 1, "seconds": float("nan")}],
    "a number that no float holds": [{"phase": "fit", "round": 1, "cells": 10**400}],
    "a power station": [{"phase": "fit", "round": 1, "seconds": 1.0, "energy_cpu_kwh": 1e6}],
    "burning tyres": [{"phase": "fit", "round": 1, "seconds": 9e3, "energy_cpu_kwh": 1.0, "emissions_kg": 1e3}],
    "another field": [{"phase": "fit", "round": 1, "watts": 3}],
    "no rows": 7,
}


@pytest.mark.parametrize("what", ROWS)
def test_energy_that_no_site_can_use_is_not_counted(what: str) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        received(ROWS[what], "muraro")
    (entry,) = received([{"phase": "fit", "round": 1, "seconds": 1.0}], "muraro").entries.values()
    assert entry.client == "muraro"


def test_a_site_that_lies_after_training_has_begun_is_left_out_line_by_line(
    tmp_path: Path, loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    texts = cycle([*map(json.dumps, ROWS.values()), "[" * 100_000, "{"])

    def lies(content: RecordDict) -> None:
        content[USED] = ConfigRecord({"rows": next(texts)})

    def wraps(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """Counts whose sum is nought, modulo 2**64."""
        confusion = np.zeros_like(arrays["confusion"])
        confusion[:2, :2] = 2**62
        return {name: np.zeros_like(array) for name, array in arrays.items()} | {"confusion": confusion}

    def thousandfold(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        return {name: array * 1000 for name, array in arrays.items()}

    def both(one: Spoil) -> Spoil:
        def spoilt(content: RecordDict) -> None:
            one(content)
            lies(content)

        return spoilt

    by_kind = {"train": many_cells, "evaluate": many_cells, "calibrate": answer(thousandfold), "test": answer(wraps)}
    spoil(loop, {kind: both(one) for kind, one in by_kind.items()} | dict.fromkeys(("tell", "agree", "prepare"), lies))
    with caplog.at_level(logging.WARNING):
        record = trained(tmp_path, "federation.min_clients=1", "sites.masked=false")
    assert record["clients_by_round"] == [2, 2]
    assert len(record["refused"]) == 4
    assert all("muraro" in line and "more than the" in line for line in record["refused"])
    for line in ("calibration without muraro", "test without muraro", "muraro: its energy is not counted"):
        assert line in caplog.text
    assert pd.read_csv(tmp_path / "run/sites.csv")["site"].tolist() == ["tosti", "tritschler"]
    energy = pd.read_csv(tmp_path / "run/energy.csv", keep_default_na=False)
    assert set(energy[(energy.phase == "fit") & (energy.seconds > 0)].client) == {"tosti", "tritschler"}


# What muraro answers before training, and what the run ends with.
BEFORE: dict[str, tuple[str, Spoil, str]] = {
    "no text": ("tell", answer(lambda arrays: {"about": np.arange(9)}), "muraro: what it answered to tell"),
    "fewer cells than none": ("tell", told(types={"A": -5}), "muraro: what it answered to tell"),
    "types of no numbers": ("tell", told(types={"A": "many"}), "muraro: what it answered to tell"),
    "no names": ("genes", answer(lambda arrays: {"names": packed_text({"ids": 3})}), "muraro: what it answered to gen"),
    "a part that is huge": ("agree", answer(lambda a: {"cells": np.array([10**18, 1, 1])}), "muraro: what it answered"),
    "what is no array": ("agree", unreadable, "asked to agree, before training: muraro: no answer to the question"),
    "sums of other genes": ("sums", answer(lambda a: {"squares": a["values"]}), "muraro: what it answered to sums"),
}


@pytest.mark.parametrize("what", BEFORE)
def test_a_site_that_lies_before_training_ends_the_run_in_a_line_that_names_it(
    tmp_path: Path, loop: Loop, what: str
) -> None:
    kind, lie, words = BEFORE[what]
    spoil(loop, {kind: lie})
    with pytest.raises(InputError, match=words) as raised:
        trained(tmp_path, "sites.masked=false")
    assert "\n" not in str(raised.value)
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file()]


def short(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Masked arrays that lack a byte."""
    return {name: array[:-1] for name, array in arrays.items() if array.dtype == np.uint8 and name != "reveal"}


def test_a_masked_answer_of_another_length_ends_the_run_before_training(tmp_path: Path, loop: Loop) -> None:
    spoil(loop, {"sums": answer(short)})
    with pytest.raises(InputError, match=r"sums under masks cannot be read: muraro"):
        trained(tmp_path)


def test_a_masked_answer_of_another_length_costs_a_trained_model_its_calibration_alone(
    tmp_path: Path, loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(loop, {"calibrate": answer(short)})
    record = trained(tmp_path)
    assert (record["clients_by_round"], record["temperature"]) == ([3, 3], None)
    assert "sums under masks cannot be read: muraro" in caplog.text
    assert "calibration without all sites" in caplog.text


def test_a_run_that_was_killed_does_not_go_on_with_other_cells(
    tmp_path: Path, files: dict[str, Path], loop: Loop
) -> None:
    def killed(name: str, message: Message) -> Message | None:
        if message.metadata.message_type == "train" and message.content["config"]["server-round"] == 2:
            raise KeyboardInterrupt
        return None

    loop.altered = killed
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed")
    own, rounds = loop.answering["muraro"].hospital.settings, []
    ad.read_h5ad(files["muraro"])[5:].copy().write_h5ad(other := tmp_path / "other.h5ad")
    loop.altered = lambda name, message: rounds.append(message.content["config"].get("server-round"))
    loop.start(own.model_copy(update={"cells": other}))
    with pytest.raises(InputError, match=r"sites have changed their cells.* \(other numbers of cells: muraro\)"):
        trained(tmp_path / "killed")
    assert set(rounds) == {None}
    loop.start(own)
    trained(tmp_path / "killed")
    assert set(rounds) == {None, 2}
    trained(tmp_path / "undisturbed")
    assert weights_of(tmp_path / "killed") == weights_of(tmp_path / "undisturbed")


def weights_of(folder: Path) -> str:
    return hashlib.sha256((folder / "run" / "weights.safetensors").read_bytes()).hexdigest()


def test_a_site_that_was_killed_while_it_prepared_leaves_no_cells_about(tmp_path: Path, loop: Loop) -> None:
    own = loop.answering["muraro"].hospital.settings
    (left := tmp_path / "sites/muraro/.prepared.x1y2").mkdir()
    (left / "data").write_bytes(b"features")
    loop.start(own)
    assert not left.exists()
