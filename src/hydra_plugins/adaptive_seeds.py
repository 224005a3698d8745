"""Hydra's sweeper of every combination, with as many seeds as its comparisons need.

Here since Hydra looks for plugins in ``hydra_plugins`` only; it imports this file at every start.
"""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from hydra_plugins.in_order import InOrder
from scfl_green.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

SEED_1 = "seed=1"


class AdaptiveSeeds(InOrder):
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
        assert self.config is not None
        allow_seeds(Path(self.config.hydra.sweep.dir), self.seeds, self.max_seeds)
        self.adds = True

    def is_done(self) -> bool:
        """Whether all jobs have run, and no comparison needs another seed; none is added after a failure."""
        if super().is_done() and self.adds and not self.failed and (further := self._further()):
            self.overrides = [*(self.overrides or ()), further]
            self._announce()
        return super().is_done()

    def more_may_follow(self) -> bool:
        """Until the last seed of all is run, or none is needed."""
        last = [job for batch in self.overrides or () for job in batch][-1]
        return self.adds and f"seed={self.max_seeds}" not in last

    def _further(self) -> list[list[str]]:
        """The jobs of one seed more."""
        from scfl_green.analysis.seeds import needed_seeds

        assert self.config is not None
        seeds = needed_seeds(Path(self.config.hydra.sweep.dir), self._firsts, self.max_seeds)
        return [[f"seed={seed}", *self._firsts[name]] for name, seed in seeds.items()]

    @cached_property
    def _firsts(self) -> dict[str, list[str]]:
        """The overrides of every method, without its seed, by the folder of its run of seed 1."""
        jobs: list[Sequence[str]] = [job for batch in self.overrides or () for job in batch if SEED_1 in job]
        return {self._job(job).folder.name: [word for word in job if word != SEED_1] for job in jobs}
