"""A search for settings by Optuna goes on with the runs that are there."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from conftest import PLUGINS, lacks
from program import start_program

QUICK = ["experiment=search", "regime=central", "trainer.max_epochs=1", "data.n_genes=50", "logger=none", "trainer=cpu"]


@pytest.mark.skipif(lacks(PLUGINS["experiment=search"]), reason="Optuna's sweeper is not installed")
def test_a_search_resumes_and_shows_its_front(tmp_path: Path) -> None:
    def search(trials: int) -> tuple[Path, dict[str, int]]:
        ended = start_program(tmp_path, *QUICK, f"hydra.sweeper.n_trials={trials}")
        assert ended.returncode == 0, ended.stderr
        (folder,) = (tmp_path / "logs/sweeps").iterdir()
        return folder, {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/result.json")}

    folder, first = search(2)
    assert len(first) == 2
    lost = folder / sorted(first)[0]
    (lost / "result.json").unlink()  # as if it had been killed
    folder, second = search(3)
    assert len(second) == 3
    assert first.keys() < second.keys(), "the killed trial is tried again, with the same settings"
    assert second[sorted(first)[1]] == first[sorted(first)[1]], "the finished one is not"
    front = pd.read_csv(folder / "tables/front.csv")
    results = pd.read_csv(folder / "results.csv")
    best = results.loc[results["validation_weighted_f1"].idxmax()]
    assert best["validation_weighted_f1"] == pytest.approx(front.filter(like="validation").to_numpy().max())
    assert len(search(3)[1]) == 3
    shutil.rmtree(folder)
