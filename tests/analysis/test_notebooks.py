"""Notebooks run from top to bottom on a sweep's results."""

import json
from pathlib import Path

import pytest

from conftest import ROOT
from program import start_program

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("notebooks")
    quick = ["data.n_genes=100", "trainer=cpu", "logger=none", "trainer.max_epochs=2"]
    ended = start_program(
        folder, "-m", "regime=central", "seed=1,2,3", "opt=baseline,small_batch", "name=study", *quick
    )
    assert ended.returncode == 0, ended.stderr
    return folder / "logs/sweeps/study"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCFL_SWEEP", str(sweep))
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    names: dict[str, object] = {}
    for cell in cells:
        exec(compile("".join(cell["source"]), path.name, "exec"), names)
    assert "results" in names or "records" in names
