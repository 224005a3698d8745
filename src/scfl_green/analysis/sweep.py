"""Runs around the jobs of a sweep: results.csv, a line of progress, the report at the end."""

import atexit
import time
from collections.abc import Collection
from math import prod
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from scfl_green.analysis.collect import collect
from scfl_green.analysis.results import method, read_results
from scfl_green.analysis.undecided import cells, next_seeds
from scfl_green.errors import InputError


class Sweep(Callback):
    """Keeps a sweep's ``results.csv`` up to date, job by job: what is killed leaves what it had."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        given: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
        params = [f"{key}={value}" for key, value in (given["params"] or {}).items()]
        overrides = OverridesParser.create().parse_overrides([*params, *config.hydra.overrides.task])
        # By key, since the command line wins over the experiment's own choices.
        choices = {
            o.key_or_group: len(list(o.sweep_string_iterator())) if o.is_sweep_override() else 1 for o in overrides
        }
        self.jobs, self.done, self.began = prod(choices.values()), 0, time.time()
        self.more = False  # jobs may follow, which a sweeper decides on when these are done
        self.failed: list[str] = []
        # Hydra ends at the jobs that failed without telling its callbacks.
        atexit.register(self._end_with_failures, config)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        folder = Path(config.hydra.sweep.dir)
        if job_return.status == JobStatus.FAILED:
            self.failed.append(config.hydra.sweep.subdir)
            print(f"failed: {config.hydra.sweep.subdir}: {job_return._return_value}")
        results = collect(folder)
        # Other processes may be at jobs of the same sweep, and are known by what they leave.
        trained = [path.parent.name for path in folder.glob("*/result.json") if path.stat().st_mtime >= self.began]
        self.done = max(self.done + 1, len(trained) + len(self.failed))
        left, each = self.jobs - self.done, max(len(trained), 1)
        emitted = ["emissions_kg", "transfer_emissions_kg"]
        kg = float(results.loc[results["folder"].isin(trained), emitted].to_numpy().sum()) if trained else 0.0
        at_least = "at least " if self.more else ""
        print(
            f"{self.done} of {at_least}{self.jobs} jobs done, {at_least}{left} left: about "
            f"{left * (time.time() - self.began) / each / 60:.0f} min and {left * kg / each * 1e3:.2g} g CO2e more "
            f"({kg * 1e3:.2g} g so far)",
            flush=True,
        )

    def _end_with_failures(self, config: DictConfig) -> None:
        if self.failed:
            self.on_multirun_end(config)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from scfl_green.analysis.report import report  # matplotlib is not for every job

        atexit.unregister(self._end_with_failures)
        if self.failed:
            print(f"failed, and run again in the next start: {', '.join(self.failed)}")
        try:
            print(report(Path(config.hydra.sweep.dir), config.report.country))
        except InputError as error:
            print(f"no report: {error}")


def needed_seeds(folder: Path, firsts: Collection[str], max_seeds: int) -> dict[str, int]:
    """The seed that each method of a sweep needs next, by the folder of its first run; none where all is decided or has
    ``max_seeds``. Methods without a first run in ``firsts`` are of another sweep."""
    collect(folder)
    results = read_results(folder)
    keys = method(results)
    own = results.merge(results.loc[results["folder"].isin(firsts), keys], on=keys)
    found = cells(own)
    undecided = [cell for cell in found if not cell.decided]
    needed = {name: seed for name, seed in next_seeds(own, max_seeds).items() if name in firsts}
    if found:
        after = f"after {max(cell.seeds for cell in undecided or found)} seeds"
        then = f": {len(needed)} jobs more" if needed else ", the limit (max_seeds)" if undecided else ""
        print(f"{len(undecided)} of {len(found)} comparisons undecided {after}{then}", flush=True)
    return needed
