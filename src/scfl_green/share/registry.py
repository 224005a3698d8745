"""Registries of shared models: push, pull and list, wherever the models lie."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from scfl_green.errors import InputError, listed, nearest
from scfl_green.files import folder_at_once
from scfl_green.share.card import Terms
from scfl_green.share.names import Address, check_name, has_scheme
from scfl_green.share.received import check, check_sizes
from scfl_green.share.release import release
from scfl_green.terminal import shortened

# What an address may begin with, before a colon; any other address is a folder's.
TARGETS = {"mlflow": "scfl_green.share.on_mlflow.MLflow", "hf": "scfl_green.share.on_hub.Hub"}
FOLDER = "scfl_green.share.on_disk.Folder"
# Of a text in the list of models.
MOST_LETTERS = 14


@dataclass(frozen=True)
class Entry:
    """A version of a model in a registry, with the metadata of its card, which need not be trusted."""

    name: str
    version: str
    metadata: Mapping[str, Any]

    def matches(self, wanted: Mapping[str, Sequence[str]]) -> bool:
        """Whether each key of the metadata holds all the wanted values, in upper or lower case."""
        return all({v.casefold() for v in values} <= set(self._values(key)) for key, values in wanted.items())

    def row(self) -> tuple[str, ...]:
        """Name, scores, grams, number of types, tissue, species and licence, as printable text."""
        scores = [_at(self.metadata, "model-index", 0, "results", 0, "metrics", number, "value") for number in (0, 1)]
        numbers = [*scores, _at(self.metadata, "co2_eq_emissions", "emissions")]
        types = self.metadata.get("cell_types")
        told = [shortened(str(self.metadata.get(key, "–")), MOST_LETTERS) for key in ("tissue", "species", "license")]
        cells = [len(types) if isinstance(types, list) else "–", *told]
        texts = [f"{self.name}@{self.version[:12]}", *(f"{n:.3g}" if type(n) in (int, float) else "–" for n in numbers)]
        return tuple("".join(c if c.isprintable() else "?" for c in str(cell)) for cell in (*texts, *cells))

    def _values(self, key: str) -> Iterator[str]:
        found = self.metadata.get(key)
        return (str(value).casefold() for value in (found if isinstance(found, list) else [found]))


def _at(value: Any, *keys: str | int) -> Any:
    """What lies below keys; None where something else was received."""
    for key in keys:
        try:
            value = value[key]
        except (LookupError, TypeError):
            return None
    return value


class Files(NamedTuple):
    """The exact version that was found, and the bytes of each of its files."""

    version: str
    sizes: Mapping[str, int]


class Registry(Protocol):
    """Where models are kept by name and version. Every method raises InputError, in one line, if it fails."""

    def push(self, folder: Path, name: str, metadata: Mapping[str, Any]) -> str:
        """Store the files of a folder as the next version of a model, whole or not at all; returns the version."""

    def entries(self) -> list[Entry]:
        """All models; those with many versions by the latest at least."""

    def look_up(self, name: str, version: str | None) -> Files:
        """A version of a model, or the latest."""

    def download(self, name: str, version: str, into: Path) -> None:
        """Fetch the ``FILES`` of a version into a folder."""


def registry(target: str) -> Registry:
    """The registry at an address: a folder, ``mlflow:URI`` or ``hf:OWNER``."""
    scheme, _, rest = target.partition(":")
    module, _, name = (TARGETS[scheme] if has_scheme(target) else FOLDER).rpartition(".")
    made: Registry = getattr(import_module(module), name)(rest if has_scheme(target) else target)
    return made


class Pushed(NamedTuple):
    """The version of a pushed model, and the names of the fields that stayed with its run."""

    version: str
    kept: list[str]


def push(run: Path, name: str, target: str, terms: Terms, trusted: Sequence[str] = ()) -> Pushed:
    """Share the model of a finished run; raises InputError before anything is written."""
    check_name(name)
    with tempfile.TemporaryDirectory() as draft:
        released = release(run, Path(draft), name, terms, trusted)
        check(Path(draft), run, trusted)
        return Pushed(registry(target).push(Path(draft), name, released.metadata), released.kept)


def pull(address: Address, folder: Path | None = None, trusted: Sequence[str] = ()) -> Path:
    """Fetch a model into a new ``folder`` (by default, of its name), where it appears checked and whole, or not at all;
    returns that folder."""
    folder = Path(address.name) if folder is None else folder
    if folder.exists() or folder.is_symlink():
        raise InputError(f"{folder}: it exists already; name another folder with -o, or remove it")
    source = registry(address.target)
    found = source.look_up(address.name, address.version)
    check_sizes(address, found.sizes)
    with folder_at_once(folder) as draft:
        source.download(address.name, found.version, draft)
        check(draft, address, trusted)
        draft.chmod(0o755)
    return folder


def unknown(name: str, version: str | None, target: object, known: Mapping[str, Sequence[str]]) -> InputError:
    """No such model, with the nearest name; or no such version, with those that there are."""
    if name in known:
        return InputError(f"{name}@{version}: no such version in {target}; there are {listed(known[name])}")
    advice = nearest(name, known) or f"there are {listed(known)}"
    return InputError(f"{name}: no such model in {target}; {advice}")


@contextmanager
def in_one_line(target: object, *errors: type[Exception]) -> Iterator[None]:
    """Turns errors of a registry's client into one line."""
    try:
        yield
    except InputError:
        raise
    except errors as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{target}: {reason}; check its address and your rights there") from error
