"""Checkpoints, from which a killed run resumes."""

import hashlib
import io
import logging
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch

from scfl_green.files import folder_at_once, write_atomically
from scfl_green.training.hooks import State

LOG = logging.getLogger(__name__)
MANIFEST = "SHA256SUMS"


class Checkpoint:
    """The state of a run: one dictionary per part, by name (``parts``).

    ``save`` writes all parts atomically to a new numbered folder, one file each, with a SHA-256 manifest (in the format
    of ``sha256sum``), and keeps the previous folder. A new object loads the last intact folder; damaged ones are logged
    and skipped. Without a folder nothing is written.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.parts: dict[str, State] = {}
        self.last: Path | None = None
        for path in self._written()[::-1]:
            if (damage := self._read(path)) is None:
                self.last = path
                break
            LOG.warning("%s: %s; the run resumes from the previous checkpoint, or starts over", path, damage)

    def _written(self) -> list[Path]:
        found = self.folder.glob("[0-9]*") if self.folder is not None else ()
        return sorted(found, key=lambda path: int(path.name))

    def _read(self, path: Path) -> str | None:
        """Load a folder; returns a description of the damage, None if it is intact."""
        try:
            sums = dict(line.split("  ")[::-1] for line in (path / MANIFEST).read_text().splitlines())
            files = {name: (path / name).read_bytes() for name in sums}
        except (OSError, ValueError) as error:
            return f"a damaged checkpoint ({type(error).__name__})"
        if not files:
            return f"a damaged checkpoint ({MANIFEST} is empty)"
        for name, content in files.items():
            if hashlib.sha256(content).hexdigest() != sums[name]:
                return f"a damaged checkpoint (the SHA-256 of {name} differs from {MANIFEST})"
        self.parts = {
            name.removesuffix(".pt"): torch.load(io.BytesIO(content), weights_only=True)
            for name, content in files.items()
        }
        return None

    def save(self, changed: Mapping[str, State]) -> None:
        """Write all parts, with ``changed`` ones updated; OSError on a full disk, the previous checkpoint intact."""
        self.parts = {**self.parts, **changed}
        if self.folder is None:
            return
        number = int(written[-1].name) + 1 if (written := self._written()) else 1
        files = {f"{name}.pt": _stored(state) for name, state in self.parts.items()}
        sums = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items()]
        with folder_at_once(path := self.folder / str(number)) as draft:
            for name, content in {**files, MANIFEST: "".join(sums).encode()}.items():
                write_atomically(draft / name, content)
        for old in self.folder.iterdir():
            if old not in (path, self.last):
                shutil.rmtree(old)
        self.last = path


def remove(folder: Path) -> None:
    """Remove the checkpoints of a finished run."""
    if folder.exists():
        shutil.rmtree(folder)
        with suppress(OSError):  # it still holds those of another configuration
            folder.parent.rmdir()


def _stored(state: State) -> bytes:
    torch.save(state, buffer := io.BytesIO())
    return buffer.getvalue()
