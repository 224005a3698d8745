"""Peak memory of whole runs against the size of their data.

python -m benchmarks.memory [by_gene] [FILE.h5ad ...]: of preparing a dataset alone; synthetic cells of the size of
dataset A by default, stored by gene (CSC) with ``by_gene``.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import anndata as ad
import h5py
from scipy import sparse

from benchmarks.measure import ROOT, Row, peak_mb, process
from scfl_green.data.clients import iid
from scfl_green.data.dataset import Recipe, load, prepare
from scfl_green.data.features.prepare import between_within
from scfl_green.data.reading.cells import Cells
from scfl_green.data.reading.file import Reading
from scfl_green.data.sources import synthetic

# Of a run, whatever the number of clients: so many MB, and so many times the CSR matrix.
IMPORTS_MB, MATRICES, GENES = 600, 2, 3000
IMPORTS = "import scfl_green.runs.run, scfl_green.federated.federation"


def rows(quick: bool, cache: Path) -> Iterator[Row]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    if not quick:
        yield Row("imports alone", process("-c", IMPORTS, env=environment).rss_mb, "MB")
    for cells, clients in [(1000, 2)] if quick else [(10_000, 4), (30_000, 4), (30_000, 50), (100_000, 4)]:
        yield _whole_run(cells, clients, cache, environment)


def _whole_run(cells: int, clients: int, cache: Path, environment: dict[str, str]) -> Row:
    """Reading, preparing, one round, the test, and all files."""
    path = cache / f"{cells}x{GENES}.h5ad"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        synthetic.write(path, cells=cells, genes=GENES, types=9, donors=4, depth=550, seed=0)
    chosen = ["data=h5ad", f"data.path={path}", f"data.n_genes={GENES}", "data.client_key=null", "data.keep_empty=true"]
    shape = ["split=iid", f"split.clients={clients}", "federation.rounds=1", "federation.local_epochs=1"]
    with TemporaryDirectory() as folder:
        places = ["logger=none", f"paths.cache={folder}/cache"]
        run = process(str(ROOT / "train.py"), *chosen, *shape, *places, cwd=folder, env=environment)
    matrix = _matrix_mb(path)
    allowed = IMPORTS_MB + MATRICES * matrix
    what = f"whole run, {cells:,} cells x {GENES:,} genes, {clients} clients"
    reference = f"{IMPORTS_MB} MB + {MATRICES} x {matrix:.0f} MB (CSR)"
    return Row(what, run.rss_mb, "MB", reference, run.rss_mb / allowed, 1.0)


def _matrix_mb(path: Path) -> float:
    with h5py.File(path) as file:
        return sum(file["X"][name].nbytes for name in ("data", "indices", "indptr")) / 1e6


def measure(paths: list[Path], folder: Path) -> None:
    imports, start = peak_mb(os.getpid()), time.perf_counter()
    cells = Cells.read(paths, Reading("cell_type", None))
    read = time.perf_counter() - start
    counts = cells.counts[:]
    matrix = (counts.data.nbytes + counts.indices.nbytes + counts.indptr.nbytes) / 1e6
    split = iid(cells, clients=8, test="cells", test_share=0.2, validation=0.1, newcomers=0, seed=0)
    prepare(cells, split, folder, Recipe(partial(between_within, n_genes=2000)))
    prepared, start = time.perf_counter() - start, time.perf_counter()
    load(folder)
    print(f"{len(cells):,} cells x {counts.shape[1]:,} genes: {matrix:,.0f} MB of counts in CSR")
    above = peak_mb(os.getpid()) - imports
    print(f"peak above the {imports:,.0f} MB of imports: {above:,.0f} MB, {above - matrix:+,.0f} MB")
    print(f"read in {read:.1f} s, prepared in {prepared:.1f} s, found again in {time.perf_counter() - start:.3f} s")


def stored_by_gene(path: Path, folder: Path) -> Path:
    adata = ad.read_h5ad(path)
    adata.X = sparse.csc_matrix(adata.X)
    (copy := folder / "by_gene" / path.name).parent.mkdir(exist_ok=True)
    adata.write_h5ad(copy)
    return copy


def main(paths: list[Path], by_gene: bool) -> None:
    with TemporaryDirectory() as folder:
        if not paths:
            paths = [Path(folder) / "synthetic_a.h5ad"]
            synthetic.write(paths[0], cells=108_717, genes=21_648, types=15, donors=36, depth=550, seed=0)
        if by_gene:
            paths = [stored_by_gene(path, Path(folder)) for path in paths]
        # A fresh process: making the file must not count.
        one = multiprocessing.get_context("spawn").Process(target=measure, args=(paths, Path(folder) / "prepared"))
        one.start()
        one.join()
        sys.exit(one.exitcode)


if __name__ == "__main__":
    main([Path(path) for path in sys.argv[1:] if path != "by_gene"], "by_gene" in sys.argv)
