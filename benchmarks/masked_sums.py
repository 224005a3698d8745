"""What masks cost: python -m benchmarks.masked_sums [FILE.h5ad --label-key cell_type --client-key Dataset]

Sums by gene and the calibration of each client's cells (the embedded dataset by default), with masks and without:
bytes that all clients send, and CPU time of masks at one of them and at the server."""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.setting import embedded, quiet, setting
from scfl_green.data.clients import by_client
from scfl_green.data.features.sums import GeneSums
from scfl_green.data.reading.cells import Cells
from scfl_green.data.reading.file import Reading
from scfl_green.data.sources import local
from scfl_green.federated.masked_sums import LINEAR_VALUES, LOGGED_VALUES, Federated, gene_arrays
from scfl_green.federated.masker import Masker, SiteKey
from scfl_green.federated.masks import BYTES, Arrays, Question, stream, unmasked_sum
from scfl_green.federated.spans import Form, Span
from scfl_green.models.calibration import BINS, histogram
from scfl_green.training.job import Job
from scfl_green.training.survey import SUMS
from scfl_green.training.survey import calibration_sums as answer


def masked(what: str, form: Form, told: Mapping[str, Arrays], plain_bytes: int) -> None:
    """Print the row of one question, once its sum is that without masks."""
    keys = {name: SiteKey.new("", name) for name in told}
    question = Question("", what, "", 1, form, {name: key.told for name, key in keys.items()})
    maskers = {name: Masker(name, key) for name, key in keys.items()}
    start = time.process_time()
    answers = {name: maskers[name].masked(question, arrays) for name, arrays in told.items()}
    reveals = {name: masker.reveal(question, told) for name, masker in maskers.items()}
    answered = time.process_time()
    sums = unmasked_sum(question, answers, reveals)
    done = time.process_time()
    for name, total in sums.items():
        assert np.array_equal(total, np.sum([arrays[name] for arrays in told.values()], axis=0))
    sent = sum(array.nbytes for arrays in answers.values() for array in arrays.values())
    small = sum(reveal.nbytes for reveal in reveals.values()) + BYTES * len(told)
    print(
        f"| {what} | {plain_bytes:,} | {sent:,} | {small:,} | {sent / plain_bytes:.1f} "
        f"| {1e3 * (answered - start) / len(told):.0f} | {1e3 * (done - answered):.0f} |"
    )


def gene_rows(cells: Cells) -> None:
    split = by_client(cells, test="cells", test_share=0.2, validation=0.1, newcomers=0, seed=42)
    parts, n_genes = split.clients, cells.counts.shape[1]
    agreed = Federated(len(parts), sum(len(part.train) for part in parts.values()))
    print(f"{len(parts)} clients, {agreed.cells:,} training cells, {len(cells.types)} types, {n_genes:,} genes\n")
    print("| question | bytes without masks | with | keys, reveals | ratio | CPU ms at a site | at the server |")
    print("|---|---|---|---|---|---|---|")
    linear = {name: GeneSums.linear(cells, part.train, True) for name, part in parts.items()}
    logged = {name: GeneSums.logged(cells, part.train, True) for name, part in parts.items()}
    for what, sums, form in (
        ("sums of counts by gene", linear, agreed.genes(1, n_genes, LINEAR_VALUES)),
        ("sums of logarithms by gene and type", logged, agreed.genes(len(cells.types), n_genes, LOGGED_VALUES)),
    ):
        plain = sum(array.nbytes for told in sums.values() for array in told.packed().values())
        masked(what, form, {name: gene_arrays(told) for name, told in sums.items()}, plain)


def calibration_rows(job: Job) -> None:
    parts, (n_types, n_genes) = job.split.clients, (job.model.n_types, job.features.n_genes)
    first = {name: answer(job, part, job.initial, {}) for name, part in parts.items()}
    question = {name: np.sum([told[name] for told in first.values()], axis=0) for name in SUMS}
    question["temperature"] = np.ones(1)
    second = {name: answer(job, part, job.initial, question) for name, part in parts.items()}
    plain = [sum(array.nbytes for told in answers.values() for array in told.values()) for answers in (first, second)]
    of_training = Federated(len(parts), sum(len(part.train) for part in parts.values()))
    of_validation = Federated(len(parts), sum(len(part.validation) for part in parts.values()))
    masked("calibration, sums", of_training.profiles(n_types, n_genes), first, plain[0])
    shapes = {"scores": (n_types, BINS), "novelty": (BINS,)}
    bins = {
        name: {kind: histogram(rows[kind].astype(np.int64), shape) for kind, shape in shapes.items()}
        for name, rows in second.items()
    }
    masked("calibration, histograms", of_validation.histograms(n_types), bins, plain[1])


def speed() -> None:
    form = {"numbers": Span((4_000_000,), 0, 1)}
    start = time.process_time()
    drawn = sum(numbers.nbytes for _, numbers in stream(bytes(BYTES), form))
    print(f"\na mask's random numbers: {drawn / 1e6 / (time.process_time() - start):,.0f} MB/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--label-key", default="cell_type")
    parser.add_argument("--client-key", default="Dataset")
    given = parser.parse_args()
    quiet()
    files = [given.file] if given.file else local.packaged("pancreas")
    gene_rows(Cells.read(files, Reading(given.label_key, given.client_key, "donor_id")))
    if not given.file:
        with TemporaryDirectory() as cache, setting(embedded(Path(cache))) as ours:
            calibration_rows(ours.job)
    speed()


if __name__ == "__main__":
    main()
