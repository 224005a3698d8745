"""Builds datasets B and C from their authors' releases."""

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from scfl_green.errors import InputError

if TYPE_CHECKING:
    import anndata as ad

# Names of the column of cell types in a table.
LABELS = ("assigned_cluster", "cell_type", "celltype", "class", "label", "labels", "type", "group", "y")


def from_tar(to: Path, *, archive: Callable[[Path], None], member: str, cells: int, types: int) -> None:
    """Build an h5ad file from the table ``member`` of a tar archive, as published on GEO."""
    _build(to, archive, lambda path: _member(path, member), cells, types)


def from_table(to: Path, *, archive: Callable[[Path], None], cells: int, types: int) -> None:
    """Build an h5ad file from a table of counts with a row or a column of cell types, gzipped or not."""
    _build(to, archive, lambda path: path, cells, types)


def _build(
    to: Path, archive: Callable[[Path], None], table_of: Callable[[Path], Path | io.BytesIO], cells: int, types: int
) -> None:
    """Write the file only if it has exactly ``cells`` cells and ``types`` types."""
    fetched = to.with_suffix(".source")
    archive(fetched)
    try:
        adata = _read_table(table_of(fetched), cells)
    except (KeyError, ValueError, OSError, tarfile.TarError) as error:
        fetched.unlink()
        why = " ".join(str(error).split())[:200]
        raise InputError(
            f"{to.name}: the file its authors released was not understood ({why}); set data.path=FILE.h5ad"
        ) from None
    found = adata.n_obs, adata.obs["cell_type"].nunique()
    fetched.unlink()
    if found != (cells, types):
        raise InputError(
            f"{to.name}: {found[0]} cells of {found[1]} types were built from the file its authors released, "
            f"{cells} of {types} are expected; set data.path=FILE.h5ad"
        )
    draft = to.with_name(f".{to.name}.part")
    adata.write_h5ad(draft, compression="gzip")
    draft.replace(to)


def _member(path: Path, member: str) -> io.BytesIO:
    with tarfile.open(path) as tar:
        found = tar.extractfile(member)
        assert found is not None
        return io.BytesIO(found.read())


def _read_table(source: Path | io.BytesIO, cells: int) -> "ad.AnnData":
    """Read counts by cell and gene; rows are cells if there are ``cells`` of them, else columns are."""
    import anndata as ad  # slow to import

    body = source.read_bytes() if isinstance(source, Path) else source.read()
    if body.startswith(b"\x1f\x8b"):
        body = gzip.decompress(body)
    head = body[: body.index(b"\n")]
    table = pd.read_csv(io.BytesIO(body), sep="," if b"," in head else r"\s+", index_col=0, low_memory=False)
    if len(table) != cells:
        table = table.T
    if not (named := [name for name in table if str(name).strip().casefold() in LABELS]):
        raise ValueError(f"no column of cell types among {', '.join(map(str, table.columns[:3]))}, ...")
    labels = table[named[0]].astype(str)
    if labels.str.fullmatch(r"\d+(\.0)?").all():
        labels = "class " + labels.str.removesuffix(".0")
    counts = table.drop(columns=[*named, *(name for name in table if str(name).casefold() == "barcode")])
    obs = pd.DataFrame({"cell_type": labels.to_numpy()}, index=counts.index.astype(str))
    values = sparse.csr_matrix(counts.to_numpy(dtype=np.float32))
    return ad.AnnData(values, obs=obs, var=pd.DataFrame(index=counts.columns.astype(str)))
