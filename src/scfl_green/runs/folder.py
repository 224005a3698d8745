"""A run's folder and identity: its fingerprint, its record and its checkpoints."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scfl_green.data.sources.local import contents
from scfl_green.errors import InputError
from scfl_green.files import locked, write_atomically
from scfl_green.training.checkpoint import Checkpoint, remove
from scfl_green.training.trained_model import TrainedModel

LOG = logging.getLogger(__name__)
RESULT = "result.json"
# The table at the end of the run, as it was printed.
SUMMARY = "summary.txt"
# What another configuration leaves in its place when its run is set aside.
KEPT = (".", "checkpoints", "earlier-")


def identify(
    config: dict[str, Any], choices: Mapping[str, str], paths: Sequence[Path], start: TrainedModel | None
) -> dict[str, Any]:
    """The identity of a run: the choices of the groups, the seed, and hashes of everything that can change the result.

    ``fingerprint`` covers everything; ``method`` is equal for repeats, which differ only in the seed and in the weights
    that depend on it.
    """
    # Files are identified by their content, not by their place or source.
    data = {key: value for key, value in config["data"].items() if key not in ("source", "path", "likes")}
    hours = config["carbon"]["intensity"]
    files = [Path(name).expanduser() for name in ([hours] if isinstance(hours, str) else hours or [])]
    carbon = config["carbon"] | {"intensity": contents(files)}
    hashed = config | {"data": data, "carbon": carbon, "weights": start and start.sha256, "files": contents(paths)}
    split = {key: value for key, value in config["split"].items() if key != "seed"}
    method = {key: value for key, value in hashed.items() if key not in ("seed", "weights")} | {"split": split}
    named = {"data": config["data"]["name"]} | {key: choices[key] for key in ("model", "opt", "regime", "split")}
    tested = test if (test := config["split"]["test"]) in ("cells", "donors") else "sites"
    hashes = {"fingerprint": _hash(hashed), "method": _hash(method)}
    return named | {"seed": config["seed"], "tested_on": tested} | hashes


def _hash(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, with its record once it is finished, and the run's identity (``identify``)."""

    path: Path
    identity: dict[str, Any]

    def finished(self) -> dict[str, Any] | None:
        """The record of a finished run of this configuration; a run of another one is moved to a subfolder."""
        if not (path := self.path / RESULT).exists():
            return None
        try:
            record = json.loads(path.read_text())
        except ValueError as error:
            raise InputError(f"{path} is damaged; remove it to repeat the run") from error
        if record["fingerprint"] == self.identity["fingerprint"]:
            LOG.info("%s: finished before, with this configuration; nothing to do", self.path)
            remove(self._checkpoints)
            return record
        aside = self.path / f"earlier-{record['fingerprint']}"
        aside.mkdir(exist_ok=True)
        for file in [file for file in self.path.iterdir() if not file.name.startswith(KEPT)]:
            file.replace(aside / file.name)
        LOG.info("%s: the run of another configuration is now in %s", self.path, aside.name)
        return None

    def summary(self) -> str:
        """The table of a finished run; empty if an earlier version wrote none."""
        path = self.path / SUMMARY
        return path.read_text() if path.exists() else ""

    def locked(self) -> AbstractContextManager[None]:
        """Keep other processes out; BusyError if one is running here."""
        return locked(self.path)

    def checkpoint(self) -> Checkpoint:
        """The last checkpoint of a killed run of this configuration."""
        return Checkpoint(self._checkpoints)

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints" / self.identity["fingerprint"]

    def finish(self, record: dict[str, Any]) -> None:
        """Write the record, which marks the run as finished, and remove its checkpoints."""
        write_atomically(self.path / RESULT, json.dumps(record, indent=1).encode())
        remove(self._checkpoints)
