"""Formats other than h5ad: read, or recognised with the line that converts them; patterns of files."""

import gzip
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
from scipy import sparse
from scipy.io import mmwrite

from scfl_green.data.reading.cells import Cells
from scfl_green.data.reading.counts import Kind
from scfl_green.data.reading.file import Reading
from scfl_green.data.sources.local import files
from scfl_green.errors import InputError
from scfl_green.share.annotate import Outputs, annotate
from scfl_green.share.cells import NewCells
from scfl_green.share.model import Model
from scfl_green.share.options import Options

COUNTS = np.random.default_rng(0).poisson(1.0, (60, 40)).astype(np.float32) + np.eye(60, 40, dtype=np.float32)


def cells() -> ad.AnnData:
    adata = ad.AnnData(sparse.csr_matrix(COUNTS))
    adata.obs["cell_type"], adata.obs["donor_id"] = ["a", "b", "c"] * 20, ["d1"] * 30 + ["d2"] * 30
    adata.var_names = [f"ENSG{i:011d}" for i in range(40)]
    return adata


def of_10x(path: Path, counts: sparse.csr_matrix, ids: list[str], names: list[str], version: int = 3) -> Path:
    """As Cell Ranger writes: genes x cells by column, text of fixed length."""
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix" if version == 3 else "GRCh38")
        group["barcodes"] = np.array([f"AAAC{i}-1" for i in range(counts.shape[0])], dtype="S")
        group["data"], group["indices"] = counts.data.astype("int32"), counts.indices.astype("int64")
        group["indptr"], group["shape"] = counts.indptr.astype("int64"), np.array(counts.shape[::-1], dtype="int32")
        features = group.create_group("features") if version == 3 else group
        features["id" if version == 3 else "genes"] = np.array(ids, dtype="S")
        features["name" if version == 3 else "gene_names"] = np.array(names, dtype="S")
        if version == 3:
            kinds = ["Antibody Capture" if name.startswith("CD") else "Gene Expression" for name in names]
            features["feature_type"] = np.array(kinds, dtype="S")
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_10xs_matrix_is_read(tmp_path: Path, version: int) -> None:
    kept = 30 if version == 3 else 40  # Cell Ranger 2 knew no antibodies
    ids = [*cells().var_names[:kept], *(f"CD{i}" for i in range(40 - kept))]
    names = [f"GENE{i}" for i in range(kept)] + ids[kept:]
    path = of_10x(tmp_path / "filtered.h5", sparse.csr_matrix(COUNTS), ids, names, version)
    read = NewCells.of_file(path, None, None, Kind())
    np.testing.assert_array_equal(sparse.vstack([*read.blocks()]).toarray(), COUNTS[:, :kept])
    assert read.genes.symbols is not None
    assert read.genes.symbols.tolist() == names[:kept]
    with pytest.raises(InputError, match=r"data.label_key=cell_type: no such column in obs; there are none: add it"):
        Cells.read([path], Reading("cell_type"))


def test_10xs_matrix_is_annotated(tmp_path: Path, few: Cells, small_model: Path) -> None:
    path = of_10x(tmp_path / "filtered.h5", few.counts, few.genes.tolist(), few.symbols.tolist())
    model, outputs = (
        Model.load(str(small_model)),
        Outputs.beside(path, tmp_path / "out.h5ad", in_place=False, csv=False, page=False),
    )
    outputs.check("scfl_", overwrite=False)
    annotate(model, outputs, Options())
    out = ad.read_h5ad(outputs.h5ad)
    np.testing.assert_array_equal(out.X.toarray(), few.counts[:].toarray())
    is_gene = [not symbol.startswith("CD") for symbol in few.symbols]  # as the file says
    adata = ad.AnnData(few.counts[:][:, is_gene])
    adata.var_names = few.genes[is_gene]
    model.annotate(adata)
    assert out.obs["scfl_label"].tolist() == adata.obs["scfl_label"].tolist()
    in_place = Outputs.beside(path, None, in_place=True, csv=False, page=False)
    with pytest.raises(InputError, match="h5ad"):
        in_place.check("scfl_", overwrite=False)


def h5mu(path: Path, *modalities: str) -> Path:
    """As muon writes: an AnnData for each modality."""
    from anndata.io import write_elem

    with h5py.File(path, "w") as file:
        for name in modalities:
            write_elem(file, f"mod/{name}", cells())
        file.attrs["encoding-type"] = "MuData"
    return path


def test_the_rna_of_several_modalities_is_read(tmp_path: Path) -> None:
    read = Cells.read([h5mu(tmp_path / "cells.h5mu", "prot", "rna")], Reading("cell_type", "donor_id"))
    np.testing.assert_array_equal(read.counts[:].toarray(), COUNTS)
    with pytest.raises(InputError, match="h5mu file without rna, which holds prot"):
        Cells.read([h5mu(tmp_path / "other.h5mu", "prot")], Reading("cell_type"))


def compressed(path: Path) -> None:
    cells().write_h5ad(path.with_suffix(""))
    path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
    path.with_suffix("").unlink()


def loom(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["matrix"] = COUNTS.T
        file.create_group("row_attrs")


def mtx(path: Path) -> None:
    path.mkdir()
    mmwrite(path / "matrix.mtx", sparse.csc_matrix(COUNTS.T.astype(int)))
    for name, texts in (("barcodes", [f"AAAC{i}-1" for i in range(60)]), ("genes", [f"E{i}\tG{i}" for i in range(40)])):
        (path / f"{name}.tsv").write_text("\n".join(texts))


# By name: how it is made, and what is told.
FORMATS: dict[str, tuple[Callable[[Path], object], str]] = {
    "cells.h5ad.gz": (compressed, "gunzip -k"),
    "cells.zarr": (lambda path: cells().write_zarr(path), "anndata.io.read_zarr"),
    "cells.loom": (loom, "scanpy.read_loom"),
    "filtered": (mtx, "scanpy.read_10x_mtx"),
    "cells.csv": (lambda path: path.write_text("cell,G1\nc1,2\n"), "anndata.io.read_csv"),
    "cells.rds": (lambda path: path.write_bytes(gzip.compress(b"RDX3")), "zellkonverter::writeH5AD"),
    "cells.h5seurat": (lambda path: h5py.File(path, "w").create_group("cell.names"), "SeuratDisk::Convert"),
    "sites": (lambda path: (path.mkdir(), cells().write_h5ad(path / "one.h5ad")), "/*.h5ad'"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORMATS)
def test_other_formats_are_recognised_and_the_line_told_that_converts_them(tmp_path: Path, name: str) -> None:
    make, words = FORMATS[name]
    make(tmp_path / name)
    with pytest.raises(InputError) as raised:
        Cells.read(files(str(tmp_path / name)), Reading("cell_type"))
    assert words in str(raised.value)
    assert name in str(raised.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [
        "cells.h5ad.gz",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("cells.zarr", "filtered")),  # they import scanpy
    ],
)
def test_the_line_converts(tmp_path: Path, name: str) -> None:
    FORMATS[name][0](tmp_path / name)
    with pytest.raises(InputError) as raised:
        Cells.read(files(str(tmp_path / name)), Reading("cell_type"))
    line = str(raised.value).partition("it: ")[2].replace("python ", f"{shlex.quote(sys.executable)} ", 1)
    subprocess.run(line, shell=True, check=True, cwd=tmp_path, capture_output=True)
    made = tmp_path / f"{name.partition('.')[0]}.h5ad"
    assert NewCells.of_file(made, None, None, Kind()).n_cells == 60


def test_a_pattern_names_files_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.h5ad", "a.h5ad", "[1].h5ad", "other.txt"):
        (tmp_path / name).write_text(name)
    assert [path.name for path in files(f"{tmp_path}/?.h5ad")] == ["a.h5ad", "b.h5ad"]
    assert [path.name for path in files([f"{tmp_path}/[1].h5ad", f"{tmp_path}/a*"])] == ["[1].h5ad", "a.h5ad"]
    monkeypatch.chdir(tmp_path)
    assert files("*.txt") == [Path("other.txt")]
    with pytest.raises(InputError, match="no file at"):
        files("*.h5mu")
    shutil.rmtree(tmp_path)
