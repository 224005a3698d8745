"""Runs around the jobs of a sweep: a line of progress, and at the end its failures and its report."""

import atexit
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from scfl_green.analysis.ends import PAGE, Ends
from scfl_green.errors import BusyError, InputError, listed


class Sweep(Callback):
    """Tells after each job how far the sweep is, and ends it with its report and ``results.csv``.

    Launchers copy it to the process of each job, which may be on another machine; whichever job ends last writes the
    report, since the process that launched them may be gone by then. All that they share is in the sweep's folder
    (``Ends``). Sweepers that know their jobs set ``jobs``, the names of their folders, and ``more``, whether other jobs
    may follow.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.jobs: list[str] = []
        self.more, self.told = False, False
        self.busy: list[str] = []
        self.ends = Ends(Path(config.hydra.sweep.dir))
        # Hydra ends at jobs that failed without telling its callbacks.
        atexit.register(self._end_with_failures, config)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        job, failure = config.hydra.sweep.subdir, ""
        if job_return.status == JobStatus.FAILED:
            error = job_return._return_value
            failure = str(error) or type(error).__name__
            print(f"failed: {job}: {failure}")
            if isinstance(error, BusyError):
                self.busy.append(job)  # the other process will note how it ends
                return
        self.ends.note(job, failure)
        known = self.ends.known()
        print(self._progress(known), flush=True)
        if self.jobs and not self.more and known.keys() >= set(self.jobs):
            self._end(config)

    def _progress(self, known: dict[str, str]) -> str:
        records = self.ends.records()
        grams = sum(record["emissions_kg"] + record["transfer_emissions_kg"] for record in records) * 1e3
        if not self.jobs:
            return f"{len(known)} jobs done ({grams:.2g} g CO2e so far)"
        done = len(known.keys() & set(self.jobs))
        left, each = len(self.jobs) - done, max(len(records), 1)
        # By the clock of the disk, and of all that run side by side.
        seconds = max(self.ends.newest() - self.ends.began, 0.0)
        at_least = "at least " if self.more else ""
        return (
            f"{done} of {at_least}{len(self.jobs)} jobs done, {at_least}{left} left: about "
            f"{left * seconds / each / 60:.0f} min and {left * grams / each:.2g} g CO2e more ({grams:.2g} g so far)"
        )

    def _end_with_failures(self, config: DictConfig) -> None:
        if self.busy or any(self.ends.known().values()):
            self.on_multirun_end(config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        atexit.unregister(self._end_with_failures)
        if not self.told:
            self._end(config)

    def _end(self, config: DictConfig) -> None:
        """The line of failures, and the report unless another process has written it since the last job ended."""
        from scfl_green.analysis.report import report  # matplotlib is not for every job

        self.told = True
        known = self.ends.known()
        if failed := [job for job, failure in known.items() if failure]:
            print(f"{len(failed)} failed, and run again in the next start: {listed(failed)}")
        if others := [job for job in self.busy if job not in known]:
            print(f"no report yet: another process is at {listed(others)}, and writes it when it is the last")
            return
        if missing := [job for job in self.jobs if job not in known]:
            print(f"{len(missing)} have not ended; the same command goes on with them: {listed(missing)}")
        try:
            with self.ends.last() as last:
                print(report(self.ends.folder, config.report.country) if last else self.ends.folder / PAGE)
        except InputError as error:
            print(f"no report: {error}")
