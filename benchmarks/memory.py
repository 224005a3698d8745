"""Peak memory of preparing a dataset, above what the imports take, against the size of its counts in CSR.

python -m benchmarks.memory [FILE.h5ad ...]: synthetic cells of the size of dataset A by default.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from scfl_green.data import synthetic
from scfl_green.data.cells import Cells, Reading
from scfl_green.data.dataset import load, prepare
from scfl_green.data.partition import iid
from scfl_green.data.prepare import between_within


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def measure(paths: list[Path], folder: Path) -> None:
    imports, start = peak_mb(), time.perf_counter()
    cells = Cells.read(paths, Reading("cell_type", None))
    read = time.perf_counter() - start
    counts = cells.counts
    matrix = (counts.data.nbytes + counts.indices.nbytes + counts.indptr.nbytes) / 1e6
    split = iid(cells, clients=8, test="cells", test_share=0.2, validation=0.1, newcomers=0, seed=0)
    prepare(cells, split, partial(between_within, n_genes=2000), folder, standardise=False)
    prepared = time.perf_counter() - start
    start = time.perf_counter()
    load(folder)
    loaded = time.perf_counter() - start
    print(f"{len(cells):,} cells x {counts.shape[1]:,} genes: {matrix:,.0f} MB of counts in CSR")
    above = peak_mb() - imports
    print(f"peak above the {imports:,.0f} MB of imports: {above:,.0f} MB, {above - matrix:+,.0f} MB")
    print(f"read in {read:.1f} s, prepared in {prepared:.1f} s, found again in {loaded:.3f} s")


def main(paths: list[Path]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if not paths:
            paths = [Path(folder) / "synthetic_a.h5ad"]
            synthetic.write(paths[0], cells=108_717, genes=21_648, types=15, donors=36, depth=550, seed=0)
        # A fresh process: making the file must not count.
        process = multiprocessing.get_context("spawn").Process(target=measure, args=(paths, Path(folder) / "prepared"))
        process.start()
        process.join()
        sys.exit(process.exitcode)


if __name__ == "__main__":
    main([Path(path) for path in sys.argv[1:]])
