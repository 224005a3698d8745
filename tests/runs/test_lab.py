"""A lab's own code and configuration, beside the program and not in it: the manual's example, as it stands there."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from scfl_green.errors import InputError
from scfl_green.training.trained_model import TrainedModel

MANUAL = (ROOT / "docs/extending.md").read_text()
FILES = ("my_lab/nets.py", "my_configs/model/mine.yaml")
QUICK = ["regime=central", "trainer.max_epochs=1", "data.n_genes=50", "logger=none", "trainer=cpu"]


def test_a_labs_own_model_trains_as_the_manual_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(MANUAL.split(f"`{name}`:\n\n```")[1].partition("\n")[2].partition("```")[0])
    (command,) = [line for line in MANUAL.splitlines() if line.startswith("PYTHONPATH=")]
    assert command in (ROOT / "README.md").read_text().splitlines()
    command = command.replace("=. scfl-green", f"=.:$PYTHONPATH {shlex.quote(sys.executable)} -m scfl_green")
    ended = subprocess.run(["bash", "-c", " ".join([command, *QUICK])], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    (folder,) = tmp_path.glob("logs/runs/pancreas-mine-*")
    # Who typed the command knows the code; who is sent its weights has to say so.
    with pytest.raises(InputError, match=r"my_lab\.nets\.Net: .*trusted=\[MODULE\]"):
        TrainedModel.load(str(folder))
    monkeypatch.syspath_prepend(tmp_path)
    assert TrainedModel.load(str(folder), ["my_lab"]).weights
