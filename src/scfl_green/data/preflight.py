"""Checks of an h5ad file before anything is read of it: what is wrong in a file must not crash the process."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

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
    except (
        OSError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
        RuntimeError,
        NotImplementedError,
    ) as error:
        why = " ".join(str(error).split())[:200]
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
