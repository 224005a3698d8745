"""Files larger than memory are prepared from disk."""

import subprocess
import sys
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from conftest import ROOT
from scfl_green.data.reading.rows import StoredRows
from scfl_green.errors import InputError

# Prepares a file with so many bytes of memory more than the libraries take, as ulimit -v would allow.
PREPARE = """
import resource, sys
from functools import partial
from pathlib import Path
from scfl_green.data.clients import iid
from scfl_green.data.dataset import Recipe, prepare
from scfl_green.data.features.prepare import highly_variable
from scfl_green.data.reading.cells import Cells
from scfl_green.data.reading.file import Reading

path, folder, allowed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
libraries = 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1])
resource.setrlimit(resource.RLIMIT_AS, (libraries + allowed,) * 2)
cells = Cells.read([path], Reading("cell_type"))
held_out = {"test": "cells", "test_share": 0.2, "validation": 0.1, "newcomers": 0}
split = iid(cells, seed=0, clients=4, **held_out)
prepare(cells, split, folder, Recipe(partial(highly_variable, n_genes=200)))
"""


def stack(path: Path, n_cells: int, n_genes: int, expressed: int) -> int:
    """Write a file of cells with ``expressed`` genes each, never held whole in memory; the bytes of its matrix."""
    rng, block = np.random.default_rng(0), 5000
    obs = pd.DataFrame({"cell_type": np.array(["A", "B", "C"])[np.arange(n_cells) % 3]})
    obs.index = [f"cell{number}" for number in range(n_cells)]
    var = pd.DataFrame(index=[f"GENE{number}" for number in range(n_genes)])
    ad.AnnData(sparse.csr_matrix((n_cells, n_genes), dtype=np.float32), obs, var).write_h5ad(path)
    genes = (rng.integers(n_genes, size=(block, 1)) + np.arange(expressed) * 3) % n_genes
    genes = np.sort(genes, axis=1).astype(np.uint16).ravel()
    shape, stored = (n_cells * expressed,), {"chunks": (2**17,), "compression": "lzf"}
    with h5py.File(path, "r+") as file:
        for name in ("data", "indices", "indptr"):
            del file[f"X/{name}"]
        data = file.create_dataset("X/data", shape, np.uint8, **stored)
        indices = file.create_dataset("X/indices", shape, np.uint16, **stored)
        file["X/indptr"] = np.arange(n_cells + 1, dtype=np.int64) * expressed
        for start in range(0, *shape, block * expressed):
            part = slice(start, min(start + block * expressed, *shape))
            indices[part] = genes[: part.stop - start]
            data[part] = rng.integers(1, 9, part.stop - start, np.uint8)
    return 8 * n_cells * expressed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_cells", "expressed", "allowed"),
    [(300_000, 3000, 600e6), pytest.param(2_000_000, 1500, 1200e6, id="more values than int32 counts")],
)
def test_a_file_is_prepared_in_a_tenth_of_its_size(
    tmp_path: Path, n_cells: int, expressed: int, allowed: float
) -> None:
    """Minutes, and half an hour; the disk holds the matrix beside the file."""
    size = stack(path := tmp_path / "large.h5ad", n_cells, 30_000, expressed)
    command = [sys.executable, "-c", PREPARE, str(path), str(tmp_path / "prepared"), str(int(allowed))]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    assert size > 10 * allowed


def test_rows_on_disk_are_those_of_the_matrix() -> None:
    rng = np.random.default_rng(0)
    matrix = sparse.random(50, 20, 0.2, "csr", dtype=np.float32, random_state=rng)
    stored = StoredRows((matrix[start : start + 7] for start in range(0, 57, 7)), 20)
    assert stored.shape == matrix.shape
    for rows in (slice(None), slice(0), slice(3, 40), slice(None, None, 5), rng.permutation(50)[:30],
                 np.array([], dtype=int), np.array([4, 5, 5, 6, -1]), rng.random(50) < 0.5):  # fmt: skip
        np.testing.assert_array_equal(stored[rows].toarray(), matrix[rows].toarray())


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """By /dev/full, which has no room, in place of a folder that is full."""
    monkeypatch.setattr("tempfile.TemporaryFile", lambda buffering: open("/dev/full", "wb", buffering))  # noqa: PTH123, SIM115
    with pytest.raises(InputError, match=r"no room for the counts.*TMPDIR"):
        StoredRows([sparse.csr_matrix(np.ones((2, 2), np.float32))], 2)
