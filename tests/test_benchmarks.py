"""The measurements run, each part leaves rows, and the hand-written loop that runs are held against does the same."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from benchmarks.measure import Row, process
from benchmarks.peers import COLUMNS, METHODS, measured, table
from benchmarks.run import PARTS
from benchmarks.setting import embedded, setting

from conftest import ROOT


@pytest.mark.slow  # minutes, and of use to who changes the measurements
def test_a_quick_run_leaves_rows_of_every_part(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.run", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    parts = json.loads((tmp_path / "benchmarks.json").read_text())
    assert [*parts] == PARTS
    for part, about in parts.items():
        assert about["rows"], part
        for row in about["rows"]:
            assert row["value"] is not None or row["note"].startswith("skipped: "), row
    agreed = [row for row in parts["federated"]["rows"] if "largest difference" in row["what"]]
    assert {row["what"].split(",")[0] for row in agreed} == {"actinn", "scdlc", "sccdcg", "scsmd"}
    assert {row["met"] for row in agreed} == {"yes"}
    table = (tmp_path / "benchmarks.md").read_text().splitlines()
    assert len(table) == 2 + sum(len(about["rows"]) for about in parts.values())


def test_a_setting_arrives_at_the_weights_of_its_regime(tmp_path: Path) -> None:
    overrides = "regime=central", "trainer.max_epochs=1", "data.n_genes=50"
    with setting(embedded(tmp_path, *overrides), *overrides) as ours:
        assert ours.run().keys() == ours.job.initial.keys()


@pytest.mark.slow  # trains
@pytest.mark.parametrize("name", ["ours, linear", "logistic regression (scikit-learn)", "CellTypist"])
def test_other_tools_are_scored_and_metered_as_ours(tmp_path: Path, name: str) -> None:
    pytest.importorskip(METHODS[name].package, reason="this tool of benchmarks.peers is not installed")
    found = pd.DataFrame([measured(name, 1, tmp_path)])
    assert found["accuracy"].item() > 0.8  # no type is more than an eighth of the cells
    assert found["grams"].item() > 0
    assert found["eaps"].item() == pytest.approx(found["weighted_f1"].item() / found["grams"].item() * 1e3)
    assert table(found).splitlines()[2].startswith(f"| {name} | 1 | ")
    assert table(found).splitlines()[0].count("|") == len(COLUMNS) + 3


def test_a_process_is_measured_with_its_children() -> None:
    work = "import time; x = bytearray(200_000_000)\nwhile time.process_time() < 0.5: pass"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}])"
    used = process("-c", child, watch=True)
    assert used.cpu > 0.5
    assert 200 < used.pss_mb < 300
    assert 5 < used.rss_mb < 100
    with pytest.raises(RuntimeError, match="exit 3"):
        process("-c", "raise SystemExit(3)")
    with pytest.raises(RuntimeError, match="too slow"):
        process("-c", "import time; time.sleep(60)", timeout=0.2)


def test_a_target_is_met_by_the_ratio_or_else_the_value() -> None:
    assert Row("x", 3.0, ratio=1.1, target=1.15).met == "yes"
    assert Row("x", 1.0, ratio=1.2, target=1.15).met == "no"
    assert Row("x", 1.2, target=1.15).met == "no"
    assert Row("x", 5.0, ratio=1.7, target=1.6, at_least=True).met == "yes"
    assert Row("x", 5.0).met == "–"
