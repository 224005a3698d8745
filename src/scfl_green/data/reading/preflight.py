"""Checks of an h5ad file before its values are read: a bad file must not crash the process."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import pandas as pd

from scfl_green.data.reading.formats import as_h5ad, no_hdf5
from scfl_green.data.reading.text import column, text, texts
from scfl_green.errors import InputError, listed, nearest

# Where anndata 0.7 and Seurat keep the categories of columns.
APART = "__categories"


@contextmanager
def opened(path: Path) -> Iterator[h5py.Group]:
    """Open an h5ad file, or what can be read as one, for reading; any error of HDF5 becomes an InputError."""
    try:
        if path.stat().st_size == 0:
            raise InputError("the file is empty")
        if not h5py.is_hdf5(path):
            raise no_hdf5(path)
        with h5py.File(path, "r") as file:
            _check_links(file, set())
            with as_h5ad(file) as h5ad:
                _check(h5ad)
                yield h5ad
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except MemoryError:
        raise InputError(f"{path}: it declares more data than fits in memory; write the file again") from None
    except Exception as error:  # h5py has no exception class of its own
        why = " ".join(str(error).split())[:200]
        if "unable to lock" in why.lower():
            raise InputError(f"{path}: open in another program, which must close it first ({why})") from error
        if "plugin" in why or "required filter" in why:
            raise InputError(f"{path}: its compression is not supported; write it again with gzip") from error
        raise InputError(
            f"{path}: damaged, or not an h5ad file ({why}); write it again with adata.write_h5ad"
        ) from error


def _check(file: h5py.Group) -> None:
    for name in ("obs", "var"):
        if name not in file:
            there = ", ".join(file) or "nothing"
            raise InputError(f"no {name} in the file, which holds {there}; an h5ad file is expected (adata.write_h5ad)")
        if isinstance(file[name], h5py.Dataset):
            raise InputError(f"{name} has the format of anndata before 0.7; read and write it with a newer one")


def _check_links(group: h5py.Group, seen: set[int]) -> None:
    """InputError for data outside this file: links and external storage could name any file on this machine."""
    for name in group:
        if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
            raise InputError(f"{group.name}/{name} is a link to another file; write a file that holds its own data")
        item = group.get(name)
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise InputError(f"{item.name} keeps its data in other files; write a file that holds its own data")
        elif isinstance(item, h5py.Group) and (address := h5py.h5o.get_info(item.id).addr) not in seen:
            seen.add(address)
            _check_links(item, seen)


def table(group: h5py.Group, wanted: Iterable[str | None]) -> pd.DataFrame:
    """Read the ``wanted`` columns of obs or var that exist (the index also by its own name), and no others, which may
    hold anything. ``attrs["all"]`` names all columns."""
    index, every, apart = index_name(group), column_names(group), group.get(APART, {})
    frame = pd.DataFrame(index=pd.Index(column(group[index])))
    for name in dict.fromkeys(name for name in wanted if name in (*every, index)):
        frame[name] = column(group[name], apart.get(name))
    frame.attrs["all"] = every
    return frame


def column_names(group: h5py.Group) -> list[str]:
    """The columns of obs or var, without its index: in the order that the file gives, if any, else those there are."""
    there = [name for name in group if name not in (APART, index_name(group))]
    order = [name for name in texts(group.attrs.get("column-order", ())) if name in group]
    return [*order, *(name for name in there if name not in order)]


def index_name(group: h5py.Group) -> str:
    """The name under which obs or var holds the names of its rows."""
    return text(group.attrs.get("_index", next((name for name in ("_index", "index") if name in group), "_index")))


def no_column(setting: str, key: str, place: str, every: Sequence[str]) -> InputError:
    """The error of a setting that names no column of obs or var (``place``)."""
    there = f"there are {listed(every)}" if every else "there are none: add it to the file"
    advice = " ".join(filter(None, (nearest(key, every), there)))
    return InputError(f"{setting}={key}: no such column in {place}; {advice}")
