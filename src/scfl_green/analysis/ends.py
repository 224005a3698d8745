"""How the jobs of a sweep ended, a small file each: what processes on several machines know of each other."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from scfl_green.files import write_atomically

PAGE = "report.html"


class Ends:
    """The ends of the jobs of one start of a sweep, in the sweep's folder; of jobs that ended more than once, the last.

    Times are those of the files, and so of the one clock of a shared disk.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.notes = folder, folder / ".jobs"
        self.notes.mkdir(parents=True, exist_ok=True)
        write_atomically(started := self.notes / ".started", b"")
        self.began = started.stat().st_mtime

    def note(self, job: str, failure: str = "") -> None:
        """Note that a job has ended, and of what it failed, if it did."""
        write_atomically(self.notes / f"{job}.json", json.dumps(failure).encode())

    def known(self) -> dict[str, str]:
        """The jobs that have ended since the start, and of what they failed; empty for success."""
        return {path.stem: json.loads(path.read_text()) for path in self._since(self.notes.glob("[!.]*.json"))}

    def records(self) -> list[dict[str, float]]:
        """The records of runs that finished since the start."""
        return [json.loads(path.read_text()) for path in self._since(self.folder.glob("*/result.json"))]

    def newest(self) -> float:
        """The time of the last end."""
        return max((path.stat().st_mtime for path in self.notes.glob("[!.]*.json")), default=self.began)

    def _since(self, paths: Iterator[Path]) -> list[Path]:
        return sorted(path for path in paths if path.stat().st_mtime >= self.began)

    @contextmanager
    def last(self) -> Iterator[bool]:
        """Whether no other process has written the sweep's page after all these ends; keeps others waiting inside."""
        with FileLock(self.notes / ".lock"):
            page = self.folder / PAGE
            ends = [path.stat().st_mtime for path in self._since(self.notes.glob("[!.]*.json"))]
            yield not (ends and page.exists() and page.stat().st_mtime >= max(ends))
