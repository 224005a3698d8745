"""Hydra's sweeper of every combination, with as many seeds as its comparisons need.

Here since Hydra looks for plugins in ``hydra_plugins`` only; it imports this file at every start.
"""

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from scfl_green.errors import InputError

SEED_1 = "seed=1"


class AdaptiveSeeds(BasicSweeper):
    """Runs seeds 1 to ``seeds`` of every combination; then, as long as a comparison is undecided, one seed more of the
    methods that it compares, up to ``max_seeds``. Seeds that are given (``seed=1,2``) are run as they are."""

    def __init__(self, seeds: int, max_seeds: int, max_batch_size: int | None, params: dict[str, str]) -> None:
        super().__init__(max_batch_size, params)
        self.seeds, self.max_seeds = seeds, max_seeds
        self.adds = False

    def sweep(self, arguments: list[str]) -> Any:
        """Run all jobs. InputError if no number of seeds is between ``seeds`` and ``max_seeds``."""
        given = {override.key_or_group for override in OverridesParser.create().parse_overrides(arguments)}
        if "seed" not in given:
            self._allow_seeds()
        return super().sweep(arguments)

    def _allow_seeds(self) -> None:
        from scfl_green.analysis.collect import allow_seeds

        whole = type(self.seeds) is type(self.max_seeds) is int
        if not whole or not 1 <= self.seeds <= self.max_seeds:
            raise InputError(
                f"seeds={self.seeds} max_seeds={self.max_seeds}: expected whole numbers, seeds from 1 to max_seeds; "
                "set both to the same to add none"
            )
        allow_seeds(self.folder, self.seeds, self.max_seeds)
        self.adds = True

    @property
    def folder(self) -> Path:
        assert self.config is not None
        return Path(self.config.hydra.sweep.dir)

    def get_job_batch(self) -> Sequence[Sequence[str]]:
        """The next jobs."""
        if self.adds:
            self._announce()
        return super().get_job_batch()

    def is_done(self) -> bool:
        """Whether all jobs have run, and no comparison needs another seed."""
        if super().is_done() and self.adds and (further := self._further()):
            self.overrides = [*(self.overrides or ()), further]
        return super().is_done()

    def _further(self) -> list[list[str]]:
        """The jobs of one seed more."""
        from scfl_green.analysis.sweep import needed_seeds

        seeds = needed_seeds(self.folder, self._firsts, self.max_seeds)
        return [[f"seed={seed}", *self._firsts[name]] for name, seed in seeds.items()]

    @cached_property
    def _firsts(self) -> dict[str, list[str]]:
        """The overrides of every method, without its seed, by the folder of its run of seed 1."""
        assert self.hydra_context is not None
        assert self.config is not None
        compose = partial(self.hydra_context.config_loader.load_sweep_config, self.config)
        jobs = [list(job) for batch in self.overrides or () for job in batch if SEED_1 in job]
        return {compose(job).hydra.sweep.subdir: [word for word in job if word != SEED_1] for job in jobs}

    def _announce(self) -> None:
        """Tell the line of progress how many jobs there are, so far."""
        from scfl_green.analysis.sweep import Sweep

        jobs = [job for batch in self.overrides or () for job in batch]
        for callback in self.hydra_context.callbacks.callbacks if self.hydra_context else ():
            if isinstance(callback, Sweep):
                callback.jobs, callback.more = len(jobs), f"seed={self.max_seeds}" not in jobs[-1]
