"""Sources of datasets; each returns paths of h5ad files on this machine."""

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from filelock import FileLock

from scfl_green.data.reading.formats import no_file
from scfl_green.errors import InputError, listed


def packaged(name: str, path: str | list[str] | None = None) -> list[Path]:
    """A dataset included in the package: ``pancreas``."""
    if path is not None:
        return files(path)
    place = resources.files("scfl_green.data") / "packaged" / f"{name}.h5ad"
    if not place.is_file():
        raise InputError(f"data.source.name={name}: no such packaged dataset; there is pancreas")
    return [Path(str(place))]


def files(path: str | list[str] | None) -> list[Path]:
    """The user's own file, or several, each a client."""
    if path is None:
        raise InputError("data.path: the path of an h5ad file is expected, or a list of them")
    names = [path] if isinstance(path, str) else path
    places = [place for name in names for place in _matching(name)]
    if len(places) > 1 and len({sha256 for _, sha256 in contents(places)}) < len(places):
        raise InputError(f"data.path names identical files, {listed(places)}; name each file once")
    return places


def elsewhere() -> list[Path]:
    """Cells that are at their sites, on other machines: no file here."""
    return []


def fetched(file: str, path: str | list[str] | None, cache_in: str | None, fetch: Callable[[Path], None]) -> list[Path]:
    """A published dataset: the user's copy at ``path``, or ``file`` in the folder that ``SCFL_DATA`` names or in the
    cache, where ``fetch`` writes it once."""
    if path is not None:
        return files(path)
    if not re.fullmatch(r"\w[\w.-]*\.h5ad", file):  # a download must not overwrite a file that something could run
        raise InputError(f"data.source.file={file}: the name of an h5ad file is expected, without its folder")
    for folder in (os.environ.get("SCFL_DATA"), cache_folder(cache_in)):
        if folder and (place := expanded(folder) / file).is_file():
            return [place]
    place = cache_folder(cache_in) / file
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_name(f".{file}.lock")):  # another process may be fetching it
        if not place.is_file():
            fetch(place)
    return [place]


def cache_folder(folder: str | None) -> Path:
    """``paths.cache``, or the system's cache folder."""
    import pooch

    place = expanded(pooch.os_cache("scfl-green") if folder is None else folder, "paths.cache (SCFL_CACHE)")
    there = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise InputError(f"paths.cache (SCFL_CACHE): {place} cannot be written; name another folder")
    return place


def contents(paths: Sequence[Path]) -> list[tuple[str, str]]:
    """The identity of each file, wherever it lies: its name, which names its client, and its SHA-256."""
    return [(path.stem, _sha256(path, path.stat().st_mtime_ns)) for path in paths]


@cache
def _sha256(path: Path, changed_ns: int) -> str:
    """SHA-256 of a file last changed at ``changed_ns``; read once for all jobs of a sweep."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _matching(path: str) -> list[Path]:
    """The file of this name, or those that a pattern such as ``sites/*.h5ad`` matches, in order of their names."""
    for place in _places(path):
        here = Path(place.anchor)
        if not place.exists() and (found := sorted(here.glob(str(place.relative_to(here))))):
            return [_locate(str(name)) for name in found]
    return [_locate(path)]


def _places(path: str) -> list[Path]:
    """Where a path may lie: in the current folder, or in that of ``SCFL_DATA``."""
    return [expanded(path), expanded(os.environ.get("SCFL_DATA", "."), "SCFL_DATA") / path]


def expanded(path: str | Path, setting: str = "data.path") -> Path:
    """A path with the home folder in place of ``~``; InputError if this user has none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"{setting}: {path}, but this user has no home folder; name a folder without ~") from None


def _locate(path: str) -> Path:
    places = dict.fromkeys(_places(path))
    for place in places:
        if place.is_file() and not os.access(place, os.R_OK):
            raise InputError(f"{place}: no permission to read it")
        if place.is_file():
            return place
        if place.is_dir():
            raise no_file(place)
    raise InputError(f"no file at {' or '.join(str(p) for p in places)}; set data.path, or SCFL_DATA to its folder")
