"""Checks of an h5ad file before its values are read: a bad file must not crash the process."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import pandas as pd

from scfl_green.errors import InputError, listed, nearest


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open an h5ad file for reading; any error of HDF5 or anndata becomes an InputError."""
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
        raise InputError(f"{path}: it declares more data than fits in memory; write the file again") from None
    except Exception as error:  # anndata and h5py share no exception class
        why = " ".join(str(error).split())[:200]
        if "unable to lock" in why.lower():
            raise InputError(f"{path}: open in another program, which must close it first ({why})") from error
        if "plugin" in why or "required filter" in why:
            raise InputError(f"{path}: its compression is not supported; write it again with gzip") from error
        raise InputError(
            f"{path}: damaged, or not an h5ad file ({why}); write it again with adata.write_h5ad"
        ) from error


def _check(file: h5py.File) -> None:
    for name in ("obs", "var"):
        if name not in file:
            there = ", ".join(file) or "nothing"
            raise InputError(f"no {name} in the file, which holds {there}; an h5ad file is expected (adata.write_h5ad)")
        if isinstance(file[name], h5py.Dataset):
            raise InputError(f"{name} has the format of anndata before 0.7; read and write it with a newer one")
    _check_links(file, set())


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
    from anndata.io import read_elem  # slow to import, and a prepared dataset does without

    if "__categories" in group:  # anndata 0.7, which stores categories apart from their columns
        frame = read_elem(group)
        frame.attrs["all"] = list(frame.columns)
        return frame
    index, every = text(group.attrs["_index"]), column_names(group)
    frame = pd.DataFrame(index=pd.Index(read_elem(group[index])))
    for name in dict.fromkeys(name for name in wanted if name in (*every, index)):
        frame[name] = read_elem(group[name])
    frame.attrs["all"] = every
    return frame


def column_names(group: h5py.Group) -> list[str]:
    """The columns of obs or var, without its index."""
    return [text(name) for name in group.attrs["column-order"]]


def no_column(setting: str, key: str, place: str, every: Sequence[str]) -> InputError:
    """The error of a setting that names no column of obs or var (``place``)."""
    advice = " ".join(filter(None, (nearest(key, every), f"there are {listed(every)}")))
    return InputError(f"{setting}={key}: no such column in {place}; {advice}")


def text(value: object) -> str:
    """Decode an HDF5 attribute, which may be bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
