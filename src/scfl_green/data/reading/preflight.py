"""Checks of an h5ad file before anything is read of it: what is wrong in a file must not crash the process."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import pandas as pd
from anndata.io import read_elem

from scfl_green.errors import InputError


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The file at ``path``, open for reading; whatever it makes HDF5 or anndata raise becomes an InputError."""
    try:
        if path.stat().st_size == 0:
            raise InputError("the file is empty")
        if not h5py.is_hdf5(path):
            raise InputError("not an HDF5 file; an h5ad file is expected (adata.write_h5ad)")
        with h5py.File(path, "r") as file:
            _check(file)
            yield file
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except MemoryError:
        raise InputError(f"{path}: it declares more data than there is memory for; write the file anew") from None
    except Exception as error:  # anndata and h5py have no common one
        why = " ".join(str(error).split())[:200]
        if "unable to lock" in why.lower():
            raise InputError(f"{path}: open in another program, which must close it first ({why})") from error
        if "plugin" in why or "required filter" in why:
            raise InputError(f"{path}: its compression is not known here; write it anew with gzip") from error
        raise InputError(
            f"{path}: damaged, or not an h5ad file ({why}); write it anew with adata.write_h5ad"
        ) from error


def _check(file: h5py.File) -> None:
    for name in ("obs", "var"):
        if name not in file:
            there = ", ".join(file) or "nothing"
            raise InputError(f"no {name} in the file, which holds {there}; an h5ad file is expected (adata.write_h5ad)")
        if isinstance(file[name], h5py.Dataset):
            raise InputError(f"{name} is a table of anndata before 0.7; read and write the file with a current anndata")
    _stays_inside(file, set())


def _stays_inside(group: h5py.Group, seen: set[int]) -> None:
    """What is read must lie in this file: links and external storage could name any file of this machine."""
    for name in group:
        if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
            raise InputError(f"{group.name}/{name} is a link to another file; write a file that holds its own data")
        item = group.get(name)
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise InputError(f"{item.name} keeps its data in other files; write a file that holds its own data")
        elif isinstance(item, h5py.Group) and (address := h5py.h5o.get_info(item.id).addr) not in seen:
            seen.add(address)
            _stays_inside(item, seen)


def table(group: h5py.Group, wanted: Iterable[str | None]) -> pd.DataFrame:
    """The wanted columns of obs or var that there are, and the index under its own name too; what else there is may be
    anything, and is not read. ``attrs["all"]`` names all columns."""
    if "__categories" in group:  # anndata 0.7, whose columns are not whole by themselves
        frame = read_elem(group)
        frame.attrs["all"] = list(frame.columns)
        return frame
    index = text(group.attrs["_index"])
    every = [text(name) for name in group.attrs["column-order"]]
    frame = pd.DataFrame(index=pd.Index(read_elem(group[index])))
    for name in dict.fromkeys(name for name in wanted if name is not None):
        if name in (*every, index):
            frame[name] = read_elem(group[name])
    frame.attrs["all"] = every
    return frame


def text(value: object) -> str:
    """An attribute of HDF5, which may be bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
