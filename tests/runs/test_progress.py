"""The progress bar: it moves within rounds and epochs, on a terminal alone, and its cost is not training's."""

import logging
import os
import pty
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest

from conftest import compose_config
from jobs import make_job, simulated
from scfl_green.data.reading.cells import Cells
from scfl_green.energy.meter import EnergyMeter
from scfl_green.runs.progress import ProgressBar
from scfl_green.runs.regimes import central
from scfl_green.runs.run import run
from scfl_green.training.hooks import Hook, PartialStep

QUICK = ["federation.rounds=2", "federation.local_epochs=1", "data.n_genes=100", "logger=none", "trainer=cpu"]
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> Iterator[list[bytes]]:
    """A terminal in the place of standard output, and what it is sent."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    ours, its = pty.openpty()
    sent: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(ours, 65536):
                sent.append(data)
        except OSError:  # its end is closed
            pass

    (reader := threading.Thread(target=read)).start()
    with os.fdopen(its, "w") as screen, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", screen)
        yield sent
    reader.join()
    os.close(ours)


def lines_of(sent: list[bytes]) -> list[str]:
    """What the terminal showed, a line for each drawing of the bar."""
    return re.split(r"[\r\n]+", CODES.sub("", b"".join(sent).decode()))


@pytest.mark.parametrize("columns", [60, 80])
def test_a_run_has_a_bar_that_moves_with_every_client(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, columns: int
) -> None:
    with terminal(monkeypatch, columns) as sent:
        run(compose_config(tmp_path, *QUICK))
    lines = lines_of(sent)
    bars = [line for line in lines if "━" in line]
    assert max(map(len, bars)) <= columns
    for number in (1, 2):
        assert any(f"round {number}/2" in line and "4/4 clients" in line for line in bars)
    assert any(re.search(r"\d:\d\d:\d\d left", line) for line in bars)
    assert ("accuracy" in bars[-1]) == (columns == 80)
    energy = pd.read_csv(tmp_path / "run/energy.csv").set_index("phase")
    assert energy.loc["tracking", "seconds"] > 0


def test_a_line_of_the_log_goes_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch, 80) as sent:
        logging.getLogger().addHandler(handler := logging.StreamHandler(sys.stdout))
        try:
            bar = ProgressBar()
            bar.start()
            bar.after("round", 1, 2, "")
            logging.getLogger("scfl_green").warning("a site is late")
            bar.stop()
            assert handler.stream is sys.stdout
        finally:
            logging.getLogger().removeHandler(handler)
    lines = lines_of(sent)
    assert "a site is late" in [line.strip() for line in lines]
    assert not [line for line in lines if "late" in line and "round" in line]


class Parts(Hook):
    """Records how far each step was."""

    def __init__(self) -> None:
        self.steps: list[PartialStep] = []

    def within(self, step: PartialStep) -> None:
        self.steps.append(step)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_federation_tells_of_every_client(few: Cells, meter: EnergyMeter, workers: int) -> None:
    parts = Parts()
    simulated(make_job(few, meter, hooks={"parts": parts}), rounds=2, parallel_clients=workers)
    every = [PartialStep("round", number, 2, done, 4, "clients") for number in (1, 2) for done in (1, 2, 3, 4)]
    assert parts.steps == every


@pytest.mark.parametrize("packed", [True, False])
def test_central_training_tells_of_batches_where_lightning_sees_them(
    few: Cells, meter: EnergyMeter, packed: bool
) -> None:
    parts = Parts()
    central(make_job(few, meter, hooks={"parts": parts}, packed=packed), epochs=2)
    assert bool(parts.steps) != packed
    for number in () if packed else (1, 2):
        assert [step.done for step in parts.steps if step.number == number][-1] == parts.steps[0].of > 1


def test_there_is_no_bar_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar()
    bar.start()
    bar.within(PartialStep("round", 1, 2, 4, 4, "clients"))
    bar.after("round", 1, 2, "")
    bar.stop()
    assert capsys.readouterr().out == ""
