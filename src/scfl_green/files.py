"""Files that are there whole or not at all, and written by one process."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from scfl_green.errors import BusyError


def write_atomically(path: Path, content: bytes) -> None:
    """The file appears whole or not at all, and survives a crash once this returns."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    _sync(path.parent)


@contextmanager
def folder_at_once(path: Path) -> Iterator[Path]:
    """A folder to fill, which is ``path`` afterwards, or gone if that did not succeed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield draft
        draft.replace(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    _sync(path.parent)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While one process is at a run, no other is: both would write the same files. BusyError where one is already."""
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".hydra" / "lock", timeout=0):
            yield
    except Timeout:
        raise BusyError(f"{folder}: another process is at this run; let it end, or write to other paths.logs") from None


def _sync(folder: Path) -> None:
    """A file's name is on the disk only when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
