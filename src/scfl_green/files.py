"""Atomic writes, and locks on run folders."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from scfl_green.errors import BusyError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all, and survives a crash once this returns."""
    # Processes of two hosts on one disk may have the same number.
    draft = path.with_name(f".{path.name}.{uuid4().hex}")
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
    """Yield a draft folder to fill, which becomes ``path`` on success and is removed on failure."""
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
    """Lock a run's folder, so that only one process writes to it. BusyError if another process holds the lock."""
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".hydra" / "lock", timeout=0):
            yield
    except Timeout:
        raise BusyError(f"{folder}: another process is at this run; wait for it, or set another paths.logs") from None


def _sync(folder: Path) -> None:
    """Flush a folder to disk: a new file's name survives a crash only after that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
