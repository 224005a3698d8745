"""Bad files: each is refused in one line that names the file and what to do, and none crashes the process."""

import shutil
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from hydra.utils import instantiate
from scipy import sparse

from conftest import compose_config
from program import start_program
from scfl_green.data.reading.cells import Cells
from scfl_green.data.reading.file import Reading
from scfl_green.errors import InputError
from scfl_green.runs.assemble import load_dataset

RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(1.0, (60, 40)).astype(np.float32)
COUNTS[:, 0] += 1  # no cell is empty
OURS = ["data=h5ad", "data.n_genes=10", "regime=central", "logger=none"]


def good(counts: np.ndarray = COUNTS, **obs: object) -> ad.AnnData:
    n = len(counts)
    columns = {
        "cell_type": [f"type {i % 3}" for i in range(n)],
        "donor_id": [f"d{i // (n // 3 + 1)}" for i in range(n)],
    }
    index = [f"cell{i}" for i in range(n)]
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(counts.shape[1])])
    return ad.AnnData(sparse.csr_matrix(counts), obs=pd.DataFrame(columns | obs, index=index), var=var)


def labelled(*values: object) -> Callable[[Path], None]:
    """A file whose cell types are these, over and over."""
    return lambda path: good(cell_type=[values[i % len(values)] for i in range(60)]).write_h5ad(path)


def counted(change: Callable[[np.ndarray], object]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        counts = COUNTS.copy()
        changed = change(counts)
        good(counts if changed is None else np.asarray(changed, dtype=np.float32)).write_h5ad(path)

    return write


def edited(change: Callable[[h5py.File], object]) -> Callable[[Path], None]:
    """A good file, changed behind anndata's back."""

    def write(path: Path) -> None:
        good().write_h5ad(path)
        with h5py.File(path, "r+") as file:
            change(file)

    return write


def replaced(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def swap(file: h5py.File) -> None:
        values = change(file[name][:])
        del file[name]
        file[name] = values

    return edited(swap)


def at(position: int, value: object) -> Callable[[np.ndarray], np.ndarray]:
    def put(values: np.ndarray) -> np.ndarray:
        values = values.astype(np.int64)
        values[position] = value
        return values

    return put


def truncated(path: Path) -> None:
    good().write_h5ad(path)
    path.write_bytes(path.read_bytes()[:-3000])


def garbled(path: Path) -> None:
    good().write_h5ad(path, compression="gzip")
    with h5py.File(path) as file:
        place, size = file["X/data"].id.get_chunk_info(0).byte_offset, file["X/data"].id.get_chunk_info(0).size
    body = bytearray(path.read_bytes())
    body[place : place + size] = bytes(size)
    path.write_bytes(body)


def external_storage(file: h5py.File) -> None:
    values = file["X/data"][:]
    other = Path(file.filename).with_suffix(".raw")
    other.write_bytes(values.tobytes())
    del file["X/data"]
    file["X"].create_dataset("data", values.shape, values.dtype, external=[(str(other), 0, values.nbytes)])


def virtual(file: h5py.File) -> None:
    values = file["X/data"][:]
    other = Path(file.filename).with_suffix(".other.h5")
    with h5py.File(other, "w") as source:
        source["values"] = values
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    layout[:] = h5py.VirtualSource(str(other), "values", values.shape)
    del file["X/data"]
    file["X"].create_virtual_dataset("data", layout)


def external_link(file: h5py.File) -> None:
    del file["X"]
    file["X"] = h5py.ExternalLink("/etc/passwd", "/X")


def dangling(file: h5py.File) -> None:
    del file["obs/cell_type"]
    file["obs/cell_type"] = h5py.SoftLink("/nowhere")


def duplicate_entries(path: Path) -> None:
    adata = good()
    adata.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["X/indices"][1] = file["X/indices"][0]


def latin_1(path: Path) -> None:
    good(cell_type=["Müller", "B"] * 30).write_h5ad(path, convert_strings_to_categoricals=False)
    with h5py.File(path, "r+") as file:
        names = [name.encode("latin-1") for name in file["obs/cell_type"].asstr()[:]]
        del file["obs/cell_type"]
        file["obs/cell_type"] = np.array(names)


def old_table(file: h5py.File) -> None:
    del file["obs"]
    file["obs"] = np.zeros(60, dtype=[("index", "S8"), ("cell_type", "S8")])


def copied_cells(path: Path) -> None:
    adata = good()[[*range(60), 3, 4]].copy()
    adata.write_h5ad(path)


def renamed_copies(path: Path) -> None:
    adata = good()[[*range(60), 3, 4]].copy()
    adata.obs_names_make_unique()
    adata.write_h5ad(path)


def many_types(path: Path) -> None:
    counts = np.tile(COUNTS, (20, 1))
    good(counts, cell_type=[f"clone {i // 2}" for i in range(1200)]).write_h5ad(path)


def one_name(path: Path) -> None:
    adata = good()
    adata.var["biotype"], adata.var["length"] = "protein_coding", 1000
    adata.write_h5ad(path)


def mixed_names(path: Path) -> None:
    adata = good()
    adata.var_names = [f"ENSG{i:011d}" if i % 2 else f"GENE{i}" for i in range(40)]
    adata.write_h5ad(path)


def huge(file: h5py.File) -> None:
    file["X"].attrs["shape"] = [2**62, 40]


def only_layer(values: np.ndarray) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        adata = good(values)
        adata.layers["other"] = sparse.csr_matrix(COUNTS)
        adata.write_h5ad(path)

    return write


DEPTH = COUNTS.sum(axis=1, keepdims=True)
LOGGED = np.log1p(COUNTS / DEPTH * 1e4)
NO_FILE = "no file at"
# By problem: how to make the file, further settings, and words of the message.
CASES: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "missing": (lambda path: None, [], NO_FILE),
    "a folder": (lambda path: path.mkdir(), [], "is a folder"),
    "empty": (lambda path: path.write_bytes(b""), [], "the file is empty"),
    "text": (lambda path: path.write_text("cell,gene\n1,2\n"), [], "not an HDF5 file"),
    "truncated": (truncated, [], "damaged"),
    "garbled values": (garbled, [], "damaged"),
    "another HDF5": (lambda path: h5py.File(path, "w").close(), [], "no obs in the file"),
    "no var": (edited(lambda file: file.pop("var")), [], "no var in the file"),
    "no matrix": (edited(lambda file: file.pop("X")), [], "raw counts are expected"),
    "a matrix without values": (edited(lambda file: file.pop("X/data")), [], "damaged"),
    "complex values": (replaced("X/data", lambda values: values.astype(complex)), [], "numbers are expected"),
    "text as values": (replaced("X/data", lambda values: values.astype("S4")), [], "numbers are expected"),
    "fractional indices": (replaced("X/indices", lambda values: values + 0.4), [], "not integers"),
    "an infinite shape": (edited(lambda f: f["X"].attrs.update({"shape": [np.inf, 40.0]})), [], "damaged"),
    "columns of a later anndata": (
        edited(lambda f: f.move("obs/cell_type/codes", "obs/cell_type/runs")),
        [],
        "encoded as 'categorical', which is no column",
    ),
    "text in Latin-1": (latin_1, [], "obs/cell_type holds text that is not UTF-8"),
    "zeros and ones": (lambda path: good(np.ones((60, 40))).write_h5ad(path), [], "only zeros and ones"),
    "zeros alone": (lambda path: good(np.zeros((60, 40))).write_h5ad(path), [], "only zeros"),
    "an unknown encoding": (edited(lambda f: f["X"].attrs.update({"encoding-type": "bsr"})), [], "csr_matrix"),
    "a table of old": (edited(old_table), [], "anndata before 0.7"),
    "negative index": (replaced("X/indices", at(5, -1)), [], "holds -1, outside 0 to 39"),
    "index out of range": (replaced("X/indices", at(5, 40)), [], "holds 40, outside 0 to 39"),
    "index far out of range": (replaced("X/indices", at(5, 2**40)), [], "outside 0 to 39"),
    "pointers overflow": (replaced("X/indptr", at(-1, 2**40)), [], "indptr does not fit"),
    "pointers fall": (replaced("X/indptr", at(30, 0)), [], "indptr does not fit"),
    "pointers too few": (replaced("X/indptr", lambda values: values[:-1]), [], "indptr does not fit"),
    "values too few": (replaced("X/data", lambda values: values[:-1]), [], "indptr does not fit"),
    "duplicate entries": (duplicate_entries, [], "two values for the same cell and gene"),
    "a declared size that no memory holds": (edited(huge), [], "indptr does not fit"),
    "shapes that disagree": (edited(lambda f: f["X"].attrs.update({"shape": [60, 41]})), [], "var 40 rows"),
    "external link": (edited(external_link), [], "link to another file"),
    "external storage": (edited(external_storage), [], "keeps its data in other files"),
    "virtual data": (edited(virtual), [], "keeps its data in other files"),
    "dangling link": (edited(dangling), [], "damaged"),
    "NaN": (counted(lambda c: c.__setitem__((0, 0), np.nan)), [], "1 NaN or infinite"),
    "infinity": (counted(lambda c: c.__setitem__((0, 0), np.inf)), [], "1 NaN or infinite"),
    "negative counts": (counted(lambda c: c.__setitem__((0, 0), -2)), [], "negative whole numbers, down to -2"),
    "scaled": (counted(lambda c: (c - c.mean(0)) / c.std(0)), [], "as in scaled data"),
    "log-normalised": (counted(lambda c: LOGGED), [], "cells add up to 10000 before the log"),
    "logged counts": (counted(np.log1p), [], "log-transformed counts"),
    "normalised": (counted(lambda c: c / DEPTH * 1e4), [], "normalised values"),
    "fractions": (counted(lambda c: c * 30.7), [], "non-integer values"),
    "counts elsewhere": (only_layer(LOGGED), [], "layers here: layers/other"),
    "no such layer": (counted(lambda c: None), ["data.counts=layers/raw"], "no such matrix"),
    "NaN as features": (counted(lambda c: c.__setitem__((0, 0), np.nan)), ["data.preprocess=none"], "NaN"),
    "features out of range": (counted(lambda c: c * 1e9), ["data.preprocess=none"], "at most 1e+06 are expected"),
    "empty cells": (counted(lambda c: c.__setitem__(slice(0, 2), 0)), [], "2 of 60 cells have no counts"),
    "no cells": (lambda path: good()[:0].copy().write_h5ad(path), [], "0 cells"),
    "no genes": (lambda path: good()[:, :0].copy().write_h5ad(path), [], "0 genes"),
    "cells there twice": (copied_cells, [], "2 cells occur twice"),
    "copies under other names": (renamed_copies, [], "2 cells occur twice"),
    "too many types": (many_types, [], "at most 500 cell types"),
    "genes without names of their own": (lambda p: one_name(p), ["data.gene_key=biotype"], "40 genes have 1 names"),
    "numbers as gene names": (lambda p: one_name(p), ["data.gene_key=length"], "it holds numbers"),
    "missing labels": (labelled("a", "b", None), [], "data.drop_unlabelled=true"),
    "NaN labels": (labelled("a", "b", np.nan), [], "20 of 60 cells have no cell type"),
    "blank labels": (labelled("a", "b", " "), [], "20 of 60 cells have no cell type"),
    "labels that differ in spaces": (labelled("T cell", "T  cell", "B"), [], "differ only in spaces or case"),
    "labels that differ in case": (labelled("T cell", "t cell", "B"), [], "differ only in spaces or case"),
    "one type": (labelled("a"), [], "at least two"),
    "a type with one cell": (labelled(*["a", "b"] * 29, "a", "c"), [], "data.min_cells_per_type=10"),
    "only rare types": (labelled("a", "b"), ["data.min_cells_per_type=100"], "at least two"),
    "numeric labels": (labelled(1, 2, 3), [], "it holds numbers"),
    "no such label column": (labelled("a", "b"), ["data.label_key=type"], "there are cell_type, donor_id"),
    "no such client column": (labelled("a", "b"), ["data.client_key=site"], "data.client_key=site: no such column"),
    "no such donor column": (labelled("a", "b"), ["data.donor_key=site"], "data.donor_key=site: no such column"),
    "no such gene column": (labelled("a", "b"), ["data.gene_key=symbol"], "data.gene_key=symbol: no such column"),
    "clients that differ in case": (
        lambda p: good(donor_id=["d1", "D1", "d2"] * 20).write_h5ad(p),
        [],
        "'D1' and 'd1' differ only",
    ),
    "one client": (lambda path: good(donor_id="d1").write_h5ad(path), [], "split=iid data.client_key=null"),
    "missing clients": (lambda p: good(donor_id=["d1", None] * 30).write_h5ad(p), [], "30 of 60 cells have no value"),
    "a client with one cell": (lambda p: good(donor_id=["d2", *["d1"] * 59]).write_h5ad(p), [], "too few to train"),
    "a client of rare cells": (
        lambda p: good(cell_type=["c", "c", *["a", "b"] * 29], donor_id=["x", "x", *["d1", "d2"] * 29]).write_h5ad(p),
        ["data.min_cells_per_type=10"],
        "client 'x' has no cells left",
    ),
    "mixed gene names": (mixed_names, [], "data.gene_key"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_a_bad_file_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    make, overrides, words = CASES[case]
    path = tmp_path / "bad.h5ad"
    make(path)
    cfg = compose_config(tmp_path, *OURS, f"data.path={path}", f"paths.cache={tmp_path}/cache", *overrides)
    with pytest.raises(InputError) as raised:
        load_dataset(cfg, instantiate(cfg.data.source, _partial_=True)(), None, None)
    message = str(raised.value)
    assert words in message
    assert "\n" not in message
    assert "bad.h5ad" in message
    assert not (tmp_path / "cache").exists()


def test_good_files_of_every_kind_are_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "good.h5ad"
    dense = good().to_memory()
    dense.X = COUNTS
    unsorted = good()
    for row in range(60):
        cells = slice(*unsorted.X.indptr[row : row + 2])
        unsorted.X.indices[cells], unsorted.X.data[cells] = (
            unsorted.X.indices[cells][::-1],
            unsorted.X.data[cells][::-1],
        )
    by_column = good()
    by_column.X = sparse.csc_matrix(COUNTS)
    layered, raw = good(LOGGED), good(COUNTS)
    layered.layers["counts"] = sparse.csr_matrix(COUNTS)
    raw.raw = raw.copy()
    raw.X = sparse.csr_matrix(LOGGED)
    integers = good()
    integers.X = sparse.csr_matrix(COUNTS.astype(np.int64))
    for adata, place in [
        (good(), "X"), (dense, "X"), (unsorted, "X"), (by_column, "X"), (integers, "X"),
        (layered, "layers/counts"), (raw, "raw/X"),
    ]:  # fmt: skip
        adata.write_h5ad(path)
        cells = Cells.read([path], Reading("cell_type", "donor_id"))
        np.testing.assert_array_equal(cells.counts[:].toarray(), COUNTS)
        assert cells.counts[:].has_sorted_indices
        assert cells.notes == (f"good: counts from {place}",)


@pytest.mark.parametrize(
    "case",
    [
        "log-normalised",
        # in this process, above
        *(pytest.param(case, marks=pytest.mark.slow) for case in ("truncated", "negative index", "missing labels")),
    ],
)
def test_the_program_ends_with_one_line_and_writes_nothing(tmp_path: Path, case: str) -> None:
    make, overrides, words = CASES[case]
    make(tmp_path / "bad.h5ad")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    ended = start_program(tmp_path, *OURS, "data.path=bad.h5ad", f"paths.cache={tmp_path}/cache", *overrides)
    assert ended.returncode != 0
    assert ended.stderr.startswith("error: ")
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "bad.h5ad" in ended.stderr
    assert words in ended.stderr
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
    shutil.rmtree(tmp_path)
