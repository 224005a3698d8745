"""Hydra's sweeper by Optuna, which goes on with what an earlier start has found.

Here since Hydra looks for plugins in ``hydra_plugins`` only; it imports this file at every start.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class Search(Sweeper):
    """Searches for settings, ``n_trials`` in all. The runs in the sweep's folder are the memory, and no database: those
    that are finished count, those that were killed are tried first, and so go on from their last round or epoch.

    ``settings`` are those of the plugin's own sweeper, whose ``storage`` and ``study_name`` are ours.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        import optuna  # which not everybody has
        from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl

        self.storage, self.config = optuna.storages.InMemoryStorage(), config
        self.folder, metrics = Path(config.hydra.sweep.dir), config.optimized_metric
        self.metrics = [metrics] if isinstance(metrics, str) else list(metrics)
        own = {"storage": self.storage, "study_name": "search"}
        self.optuna = OptunaSweeperImpl(**self.settings | own)
        self.optuna.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        """Run the trials that are left."""
        import optuna
        from hydra_plugins.hydra_optuna_sweeper._impl import create_params_from_overrides

        own = [f"{key}={value}" for key, value in (self.settings["params"] or {}).items()]
        space, fixed = create_params_from_overrides([*own, *arguments])
        space = {key: distribution for key, distribution in space.items() if key not in fixed}
        directions = self.optuna._get_directions()
        study = optuna.create_study(storage=self.storage, study_name="search", directions=directions)
        for given, values in self._earlier():
            params = {key: one.value() for key, one in given.items() if key in space}
            rest = {key: one.get_value_element_as_str() for key, one in given.items() if key not in space}
            if rest != fixed or not all(_within(space[key], params.get(key)) for key in space):
                continue  # of another search of this name
            if values is None:
                # Its checkpoint is there, or else it starts over.
                study.enqueue_trial(params)
            else:
                study.add_trial(optuna.trial.create_trial(params=params, distributions=space, values=values))
                self.optuna.n_trials -= 1
        if study.trials:
            self.optuna.sampler.reseed_rng()  # else it would begin with the same draws again
        return self.optuna.sweep(arguments)

    def _earlier(self) -> Iterator[tuple[dict[str, Override], list[float] | None]]:
        """The runs in the sweep's folder: what was set, and the values found; None for runs that have not ended."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.folder.glob("*/.hydra/overrides.yaml")):
            given = OverridesParser.create().parse_overrides(list(OmegaConf.load(path)))
            result = path.parents[1] / "result.json"
            record = json.loads(result.read_text()) if result.exists() else None
            values = None if record is None else [record.get(name) for name in self.metrics]
            if values is None or None not in values:
                yield {one.get_key_element(): one for one in given}, values


def _within(distribution: Any, value: Any) -> bool:
    """Whether a value is one that the search may choose."""
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except (TypeError, ValueError):
        return False
