"""Hydra's sweeper of every combination, for launchers that run jobs side by side.

Here since Hydra looks for plugins in ``hydra_plugins`` only; it imports this file at every start.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from scfl_green.errors import InputError


class Job(NamedTuple):
    """A job of a sweep: its overrides, the folder of its run, and the folder of the run that it starts from, if any."""

    overrides: Sequence[str]
    folder: Path
    start: Path | None


class InOrder(BasicSweeper):
    """Runs every combination, the last key varying fastest; a job that starts from the weights of another is launched
    when that one has ended. A job that fails does not keep later ones from running; its exception is raised at the end.
    """

    def sweep(self, arguments: list[str]) -> Any:
        """Run all jobs. InputError if the launcher lost one of them."""
        assert self.config is not None
        assert self.launcher is not None
        params = OverridesParser.create().parse_overrides([*self._parse_config(), *arguments])
        self.overrides = self.split_arguments(params, self.max_batch_size)
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        self.plan: dict[tuple[str, ...], Job] = {}
        self.returns: list[JobReturn] = []
        self._announce()
        while not self.is_done():
            for jobs in self._in_order([self._job(overrides) for overrides in self.get_job_batch()]):
                self.returns += self._launched([job.overrides for job in jobs])
        for one in self.returns:
            _ = one.return_value  # raises a failed job's exception
        return [self.returns]

    def _launched(self, batch: Sequence[Sequence[str]]) -> Sequence[JobReturn]:
        assert self.launcher is not None
        try:
            return self.launcher.launch(batch, initial_job_idx=len(self.returns))
        except RuntimeError as error:  # jobs' own exceptions are in what the launcher returns
            last = str(error).strip().splitlines()[-1:]
            raise InputError(
                f"the launcher lost a job ({type(error).__name__}: {''.join(last)[:300]}); the others may go on. The "
                "same command runs again what is missing"
            ) from error

    @property
    def failed(self) -> bool:
        """Whether a job has failed so far."""
        return any(one.status == JobStatus.FAILED for one in self.returns)

    def _in_order(self, jobs: Sequence[Job]) -> Iterator[list[Job]]:
        """Split jobs, in their order, so that none is launched together with the one that it starts from."""
        together: list[Job] = []
        for job in jobs:
            if job.start in [other.folder for other in together]:
                yield together
                together = []
            together.append(job)
        yield together

    def _job(self, overrides: Sequence[str]) -> Job:
        """A job with its folders, composed once: a wrong setting ends the sweep before its first job."""
        assert self.hydra_context is not None
        assert self.config is not None
        if (key := tuple(overrides)) not in self.plan:
            cfg = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            start = None if cfg.weights is None else Path(cfg.weights)
            self.plan[key] = Job(overrides, Path(cfg.hydra.sweep.dir) / cfg.hydra.sweep.subdir, start)
        return self.plan[key]

    def more_may_follow(self) -> bool:
        """Whether jobs may be added when those known so far have ended."""
        return False

    def _announce(self) -> None:
        """Tell what watches over the sweep which jobs there are, so far."""
        from scfl_green.analysis.sweep import Sweep

        names = [self._job(overrides).folder.name for batch in self.overrides or () for overrides in batch]
        for callback in self.hydra_context.callbacks.callbacks if self.hydra_context else ():
            if isinstance(callback, Sweep):
                callback.jobs, callback.more = names, self.more_may_follow()
