"""Peak memory of whole runs against the size of their data, and of preparing a dataset.

python -m benchmarks.memory FILE.h5ad ...: of preparing these files alone.
"""

import os
import re
import resource
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import ROOT, Row, process

# Of a run, whatever the number of clients: so many MB, and so many times the CSR matrix.
IMPORTS_MB, MATRICES, GENES = 600, 2, 3000
IMPORTS = "import scfl_green.run, scfl_green.federated.simulate"


def rows(quick: bool, cache: Path) -> Iterator[Row]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    yield Row("imports alone", process("-c", IMPORTS, watch=True, env=environment).peak_mb, "MB")
    for cells, clients in [(1000, 2)] if quick else [(10_000, 4), (30_000, 4), (30_000, 50), (100_000, 4)]:
        yield _whole_run(cells, clients, cache, environment)
    if not quick:
        yield from _preparing(cache, environment)


def _whole_run(cells: int, clients: int, cache: Path, environment: dict[str, str]) -> Row:
    """Reading, preparing, one round, the test, and all files; the data is made before, in a process of its own."""
    from scfl_green.data import synthetic  # not in the memory of a process that is measured

    path = cache / f"{cells}x{GENES}.h5ad"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        synthetic.write(path, cells=cells, genes=GENES, types=9, donors=4, depth=550, seed=0)
    chosen = ["data=h5ad", f"data.path={path}", f"data.n_genes={GENES}", "data.client_key=null", "data.keep_empty=true"]
    shape = ["split=iid", f"split.clients={clients}", "federation.rounds=1", "federation.local_epochs=1"]
    with TemporaryDirectory() as folder:
        places = ["logger=none", f"paths.cache={folder}/cache"]
        run = process(str(ROOT / "train.py"), *chosen, *shape, *places, watch=True, cwd=folder, env=environment)
    matrix = _matrix_mb(path)
    allowed = IMPORTS_MB + MATRICES * matrix
    what = f"whole run, {cells:,} cells x {GENES:,} genes, {clients} clients"
    reference = f"{IMPORTS_MB} MB + {MATRICES} x {matrix:.0f} MB (CSR)"
    return Row(what, run.peak_mb, "MB", reference, run.peak_mb / allowed, 1.0)


def _matrix_mb(path: Path) -> float:
    import h5py

    with h5py.File(path) as file:
        return sum(file["X"][name].nbytes for name in ("data", "indices", "indptr")) / 1e6


def _preparing(cache: Path, environment: dict[str, str]) -> Iterator[Row]:
    """Of cells of the size of dataset A, above what the imports take."""
    from scfl_green.data import synthetic

    path = cache / "synthetic_a.h5ad"
    if not path.exists():
        synthetic.write(path, cells=108_717, genes=21_648, types=15, donors=36, depth=550, seed=0)
    output = process("-m", "benchmarks.memory", str(path), env=environment).output
    matrix, above = (float(found) for found in re.findall(r"@ \S+ ([\d.]+)", output))
    yield Row(
        "preparing dataset A's size, above imports", above, "MB", f"{matrix:.0f} MB of counts (CSR)", above / matrix
    )


def prepare(paths: list[Path]) -> None:
    from scfl_green.data.cells import Cells, Reading
    from scfl_green.data.dataset import prepare
    from scfl_green.data.partition import iid
    from scfl_green.data.prepare import between_within

    imports = peak_mb()
    cells = Cells.read(paths, Reading("cell_type", None))
    counts = cells.counts
    matrix = (counts.data.nbytes + counts.indices.nbytes + counts.indptr.nbytes) / 1e6
    split = iid(cells, clients=8, test="cells", test_share=0.2, validation=0.1, newcomers=0, seed=0)
    with TemporaryDirectory() as folder:
        prepare(cells, split, partial(between_within, n_genes=2000), Path(folder) / "prepared", standardise=False)
    print(f"{len(cells):,} cells x {counts.shape[1]:,} genes; MB of counts in CSR, and at the peak above the imports:")
    print(f"@ counts {matrix:.0f}\n@ peak {peak_mb() - imports:.0f}")


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    prepare([Path(path) for path in sys.argv[1:]])
