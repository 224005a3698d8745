"""A registry in a folder, such as on a shared disk: ``NAME/VERSION/``, and ``models.json``, the index of all."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from scfl_green.errors import BusyError, InputError
from scfl_green.files import folder_at_once, write_atomically
from scfl_green.share.names import NAME
from scfl_green.share.received import LARGEST, sizes_in
from scfl_green.share.registry import Entry, Files, in_one_line, unknown

INDEX = "models.json"
FORMAT = 1
WAIT_SECONDS = 60
Index = dict[str, dict[str, Mapping[str, Any]]]


class Folder:
    """A version exists once the index names it: a push that is killed before leaves files that nobody sees, which the
    next push of the same model removes."""

    def __init__(self, path: str) -> None:
        self.path = Path(path).expanduser()

    def push(self, folder: Path, name: str, metadata: Mapping[str, Any]) -> str:
        with in_one_line(self.path, OSError), self._locked():
            index = self._index()
            versions = index.setdefault(name, {})
            home, version = self.path / name, str(max(map(int, versions), default=0) + 1)
            for left in [*home.glob("[0-9]*"), *home.glob(".[0-9]*.*")]:
                if left.name not in versions:
                    shutil.rmtree(left)
            with folder_at_once(home / version) as draft:
                for file in folder.iterdir():
                    write_atomically(draft / file.name, file.read_bytes())
                draft.chmod(0o755)
            versions[version] = metadata
            stored = {"format": FORMAT, "models": index}
            write_atomically(self.path / INDEX, json.dumps(stored, indent=1, allow_nan=False).encode())
            return version

    def entries(self) -> list[Entry]:
        return [Entry(name, *version) for name, versions in self._index().items() for version in versions.items()]

    def look_up(self, name: str, version: str | None) -> Files:
        index = self._index()
        versions = index.get(name, {})
        version = version or max(versions, key=int, default=None)
        if version is None or version not in versions:
            raise unknown(name, version, self.path, {name: list(known) for name, known in index.items()})
        place = self.path / name / version
        if place.is_symlink() or place.parent.is_symlink():
            raise InputError(f"{place}: a link, which may lead anywhere; refused")
        with in_one_line(self.path, OSError):
            return Files(version, sizes_in(place))

    def download(self, name: str, version: str, into: Path) -> None:
        with in_one_line(self.path, OSError):
            for file in LARGEST:
                shutil.copyfile(self.path / name / version / file, into / file, follow_symlinks=False)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.path / ".lock", timeout=WAIT_SECONDS):
                yield
        except Timeout:
            raise BusyError(f"{self.path}: another push has been at it for {WAIT_SECONDS} s; try again") from None

    def _index(self) -> Index:
        """Metadata by name and version. Its names become paths, so that any that could lead elsewhere is refused."""
        path = self.path / INDEX
        if not path.exists():
            return {}
        try:
            stored = json.loads(path.read_text())
            if stored["format"] > FORMAT:
                raise InputError(f"{path}: format {stored['format']}, this version reads {FORMAT}; update scfl-green")
            for name, versions in stored["models"].items():
                assert NAME.fullmatch(name)
                assert all(version.isdecimal() and version.isascii() for version in versions)
                assert all(isinstance(metadata, dict) for metadata in versions.values())
            index: Index = stored["models"]
            return index
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}: damaged, or not an index of models; put it back from a copy") from None
