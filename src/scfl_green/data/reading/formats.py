"""Files that are not h5ad: opened as if they were (10x's h5, RNA of h5mu), or recognised, with what converts them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py

from scfl_green.errors import InputError, listed

# Names of gene expression among the modalities of an h5mu file.
RNA = ("rna", "RNA", "gex", "gene_expression")
# By what an HDF5 file of another format holds: what converts it.
CONVERSIONS = {
    "row_attrs": """a loom file; convert it: python -c "import scanpy; scanpy.read_loom('{0}').write_h5ad('{1}')\"""",
    "cell.names": "an h5Seurat file; convert it, in R: SeuratDisk::Convert('{0}', dest = 'h5ad')",
}
ZARR = """zarr; convert it: python -c "import anndata; anndata.io.read_zarr('{0}').write_h5ad('{1}')\""""
FOLDERS = {
    "matrix.mtx*": """10x's; convert it: python -c "import scanpy; scanpy.read_10x_mtx('{0}').write_h5ad('{1}')\"""",
    ".zattrs": ZARR,
    "zarr.json": ZARR,
    "*.h5ad": "files; name them with data.path='{0}/*.h5ad'",
}


@contextmanager
def as_h5ad(file: h5py.File) -> Iterator[h5py.Group]:
    """What of an HDF5 file has the structure of an h5ad file: all of it, or the RNA of an h5mu file; or 10x's matrix,
    copied into memory in that structure. InputError for formats that must be converted."""
    for held, advice in CONVERSIONS.items():
        if held in file:
            raise InputError(_told(advice, Path(file.filename)))
    if "mod" in file:
        name = next((name for name in RNA if name in file["mod"]), None)
        if name is None:
            raise InputError(f"an h5mu file without {RNA[0]}, which holds {listed(file['mod'])}; write one as h5ad")
        yield file["mod"][name]
    elif "obs" not in file and (found := [one for one in file.values() if _of_10x(one)]):
        if len(found) > 1:
            names = listed(one.name.strip("/") for one in found)
            raise InputError(f"10x's matrices of several genomes ({names}); one is expected: write it as h5ad")
        with h5py.File("10x", "w", driver="core", backing_store=False) as view:
            _copy(view, found[0])
            yield view
    else:
        yield file


def _of_10x(item: h5py.Group | h5py.Dataset) -> bool:
    return isinstance(item, h5py.Group) and {"barcodes", "data", "indices", "indptr", "shape"} <= item.keys()


def _copy(view: h5py.File, matrix: h5py.Group) -> None:
    """Copy 10x's datasets, compressed as they are, into the structure of an h5ad file: genes x cells by column are
    cells x genes by row. Cell Ranger 2 had one group for each genome, with genes and gene_names."""
    columns = {"gene_ids": "features/id", "feature_name": "features/name", "feature_types": "features/feature_type"}
    if "genes" in matrix:
        columns = {"gene_ids": "genes", "feature_name": "gene_names"}
    parts: dict[str, Mapping[str, str]] = {
        "obs": {"_index": "barcodes"},
        "var": {"_index": columns["gene_ids"], **columns},
        "X": {name: name for name in ("data", "indices", "indptr")},
    }
    for part, datasets in parts.items():
        group = view.create_group(part)
        for name, place in datasets.items():
            if place in matrix:
                matrix.copy(place, group, name)
                if part != "X":
                    group[name].attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
        kind, version = ("csr_matrix", "0.1.0") if part == "X" else ("dataframe", "0.2.0")
        group.attrs.update({"encoding-type": kind, "encoding-version": version})
        if part != "X":
            group.attrs.update({"_index": "_index", "column-order": [name for name in group if name != "_index"]})
    view["X"].attrs["shape"] = matrix["shape"][()][::-1]
    view.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})


def no_hdf5(path: Path) -> InputError:
    """What a file is that is not HDF5, and how to make an h5ad file of it."""
    with path.open("rb") as file:
        head = file.read(512)
    if path.suffix.casefold() == ".rds" or head.startswith((b"RDX", b"X\n")):
        return InputError(_told("an R object; convert it, in R: zellkonverter::writeH5AD(readRDS('{0}'), '{1}')", path))
    if head.startswith(b"\x1f\x8b"):
        return InputError(_told("compressed; decompress it: gunzip -k '{0}'", path))
    if head.startswith(b"PK\x03\x04"):
        return InputError(_told("an archive; unpack it: unzip '{0}'", path))
    if b"\0" not in head and path.suffix.casefold() in (".csv", ".tsv", ".txt"):
        line = (
            """a table of text; convert it: python -c "import anndata; anndata.io.read_{2}('{0}').write_h5ad('{1}')\""""
        )
        return InputError(_told(line, path))
    return InputError("not an HDF5 file; an h5ad file is expected (adata.write_h5ad)")


def no_file(path: Path) -> InputError:
    """What a folder holds in place of a file, and how to make an h5ad file of it."""
    for pattern, advice in FOLDERS.items():
        if any(path.glob(pattern)):
            return InputError(f"{path} is a folder: {_told(advice, path)}")
    return InputError(f"{path} is a folder; an h5ad file is expected")


def _told(advice: str, path: Path) -> str:
    reader = "csv" if path.suffix.casefold() == ".csv" else "text"
    return advice.format(path, path.with_suffix(".h5ad").name, reader)
