"""What happens around the jobs of a sweep: results.csv, a line of progress, and the report at the end."""

import time
from math import prod
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from scfl_green.analysis.collect import collect
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
        self.jobs, self.done, self.trained = prod(choices.values()), 0, 0
        self.failed: list[str] = []
        self.seconds = self.kg = 0.0

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.began = time.time()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        folder = Path(config.hydra.sweep.dir)
        if job_return.status == JobStatus.FAILED:
            self.failed.append(config.hydra.sweep.subdir)
            print(f"failed: {config.hydra.sweep.subdir}: {job_return._return_value}")
        results = collect(folder)
        self.done += 1
        mine = results[results["folder"] == config.hydra.sweep.subdir] if len(results) else results
        record = folder / str(config.hydra.sweep.subdir) / "result.json"
        if len(mine) and record.stat().st_mtime >= self.began:
            self.trained += 1
            self.seconds += time.time() - self.began
            self.kg += float((mine["emissions_kg"] + mine["transfer_emissions_kg"]).iloc[0])
        left = self.jobs - self.done
        each = max(self.trained, 1)
        print(
            f"{self.done} of {self.jobs} jobs done, {left} left: about {left * self.seconds / each / 60:.0f} min and "
            f"{left * self.kg / each * 1e3:.2g} g CO2e more ({self.kg * 1e3:.2g} g so far)",
            flush=True,
        )

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from scfl_green.analysis.report import report  # matplotlib is not for every job

        if self.failed:
            print(f"{len(self.failed)} jobs failed, and run again in the next start: {', '.join(self.failed)}")
        try:
            print(report(Path(config.hydra.sweep.dir), config.report.country))
        except InputError as error:
            print(f"no report: {error}")
