"""What a killed run goes on from."""

import hashlib
import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from scfl_green.files import folder_at_once, write_atomically

STATE, MANIFEST = "state.json", "SHA256SUMS"


class Checkpoint:
    """What a run needs to go on where it was killed: ``files`` (bytes, by name) and ``state`` (plain values), which
    regimes fill as they go.

    ``save`` writes all of both to a numbered folder that appears whole or not at all, with a SHA-256 manifest (as of
    ``sha256sum``), and keeps the one before it. A new object begins with what the last whole one holds; one that is
    damaged is named and passed over (``begun``: there was one). Without a folder nothing is written.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.files: dict[str, bytes] = {}
        self.state: dict[str, Any] = {}
        self.last: Path | None = None
        for path in self._written()[::-1]:
            if (damage := self._read(path)) is None:
                self.last = path
                break
            print(f"{path}: {damage}; the run goes on from the one before, or anew")
        self.begun = self.last is not None

    def _written(self) -> list[Path]:
        found = self.folder.glob("[0-9]*") if self.folder is not None else ()
        return sorted(found, key=lambda path: int(path.name))

    def _read(self, path: Path) -> str | None:
        """Take what a folder holds; says what is wrong with it where that is not what was written."""
        try:
            sums = dict(line.split("  ")[::-1] for line in (path / MANIFEST).read_text().splitlines())
            files = {name: (path / name).read_bytes() for name in sums}
        except (OSError, ValueError) as error:
            return f"a damaged checkpoint ({type(error).__name__})"
        if STATE not in files:
            return f"a damaged checkpoint (its {MANIFEST} is not whole)"
        for name, content in files.items():
            if hashlib.sha256(content).hexdigest() != sums[name]:
                return f"a damaged checkpoint ({name} has another SHA-256 than {MANIFEST} says)"
        self.state = json.loads(files.pop(STATE))
        self.files = files
        return None

    def save(self) -> None:
        """Write a checkpoint; OSError where the disk is full, the one before being whole still."""
        if self.folder is None:
            return
        number = int(written[-1].name) + 1 if (written := self._written()) else 1
        files = {**self.files, STATE: json.dumps(self.state).encode()}
        sums = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items()]
        with folder_at_once(path := self.folder / str(number)) as draft:
            for name, content in {**files, MANIFEST: "".join(sums).encode()}.items():
                write_atomically(draft / name, content)
        for old in self.folder.iterdir():
            if old not in (path, self.last):
                shutil.rmtree(old)
        self.last = path

    def clear(self) -> None:
        """Remove what was written: the run is finished."""
        if self.folder is not None and self.folder.exists():
            shutil.rmtree(self.folder)
            with suppress(OSError):  # those of another configuration are there still
                self.folder.parent.rmdir()
