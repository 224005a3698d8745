"""Sites that train, and runs, each a process of its own, as their command lines start them."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from processes import SECONDS, Process, Server, until

from conftest import ROOT
from scfl_green.data.dataset import load

# Of every run here, with three rounds.
SHORT = (
    "data.n_genes=100",
    "federation.rounds=3",
    "federation.local_epochs=1",
    "logger=none",
    "federation.min_cells=0",
)


class Hospital(Process):
    """A site with its own file, which is connected; ``start`` starts it again."""

    def __init__(self, server: Server, cells: Path) -> None:
        self.name, self.folder = cells.stem, server.settings.folder.parent / cells.stem
        self.cells = Path(shutil.copy(cells, self.folder.with_suffix(".h5ad")))
        options = ("--cells", str(self.cells), "--yes", "--folder", str(self.folder))
        super().__init__(self.folder, "-m", "scfl_green", "site", "join", str(server.invitation(self.name)), *options)
        self.command = ("-m", "scfl_green", "site", "start", "--folder", str(self.folder))

    def connected(self) -> "Hospital":
        self.says("is connected")
        return self

    def heard(self, run: int | None = None) -> list[dict[str, Any]]:
        """Messages and replies so far, or those of the run that began as the ``run``-th (from behind: negative)."""
        audit = self.folder / "audit.jsonl"
        lines = [json.loads(line) for line in audit.read_text().splitlines()] if audit.exists() else []
        runs = list(dict.fromkeys(line["run"] for line in lines))
        return [line for line in lines if run is None or line["run"] == runs[run]]

    def trained_in(self, run: int = -1) -> list[int]:
        """The rounds of a run that it has trained in."""
        return [
            line["round"]
            for line in self.heard(run)
            if (line["message"], line["direction"], line.get("outcome")) == ("train", "out", "answered")
        ]

    def busy(self, message: str) -> bool:
        """Whether it is at work on such a message."""
        return [(last["message"], last["direction"]) for last in self.heard()[-1:]] == [(message, "in")]

    def kept(self) -> set[str]:
        """The hashes of the weights that it has got."""
        return {hashed(path) for path in self.folder.glob("models/*/weights.safetensors")}

    def is_whole(self) -> bool:
        """Whether nothing is half-written: its prepared cells are whole or absent, and there is no draft."""
        if (prepared := self.folder / "prepared").is_dir():
            assert len(load(prepared).features.labels) > 0
        return not [path.name for path in self.folder.glob(".*") if path.is_dir()]


class Run(Process):
    """``python train.py data=sites`` on the server's machine, writing into ``folder``; ``start`` gives the command
    again."""

    def __init__(self, folder: Path, server: Server, *overrides: str) -> None:
        self.logs = folder
        own = ("data=sites", f"paths.server={server.settings.folder}", f"paths.logs={folder}")
        given = {one.partition("=")[0] for one in overrides}
        short = [one for one in SHORT if one.partition("=")[0] not in given]
        super().__init__(folder, str(ROOT / "train.py"), *own, *short, *overrides)

    @property
    def folder(self) -> Path:
        (folder,) = (self.logs / "runs").iterdir()
        return folder

    def has_written(self, number: int) -> bool:
        """Whether a round's checkpoint is there, or a later one."""
        assert self.process.poll() is None, self.out.read_text()
        written = [path.name for path in self.logs.glob("runs/*/checkpoints/*/[0-9]*")]
        return bool(written) and max(map(int, written)) >= number

    def until_round(self, number: int) -> None:
        """Wait until a round has been written; the next one may have begun."""
        until(lambda: self.has_written(number), what=f"no round {number}: {self.out}")

    def ends(self) -> str:
        """Its last line, once it has ended with an error."""
        assert self.process.wait(SECONDS) == 1, self.out.read_text()
        return self.out.read_text().splitlines()[-1]

    def record(self) -> dict[str, Any]:
        """Its record, once it has ended well."""
        assert self.process.wait(SECONDS) == 0, self.out.read_text()
        return dict(json.loads((self.folder / "result.json").read_text()))

    def weights(self) -> str:
        self.record()
        return hashed(self.folder / "weights.safetensors")

    def files(self) -> Sequence[Path]:
        return [path for path in self.logs.rglob("*") if path.is_file()]


def hashed(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
