"""Refuses what a server asks beyond what its site agrees to."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from scfl_green.errors import InputError
from scfl_green.security import targets
from scfl_green.sites.settings import Limits

# What the settings of a run must have, and nothing else (``runs.assemble.for_sites``).
DATA = {"preprocess", "batch_size"}
# Options of Lightning's Trainer that a server may set: none that write files.
TRAINER = {
    "_target_", "_partial_", "accelerator", "accumulate_grad_batches", "benchmark", "deterministic", "devices",
    "gradient_clip_algorithm", "gradient_clip_val", "max_epochs", "packed", "parallel_clients", "precision",
}  # fmt: skip


class RefusedError(Exception):
    """What a server asks is beyond the site's limits; the text stays at the site."""


def check(limits: Limits, run: Mapping[str, Any]) -> None:
    """RefusedError for settings of a run that ask for more than ``limits``."""
    if (theirs := run.get("version")) != (ours := version("scfl-green")):
        raise RefusedError(f"the server has scfl-green {theirs!r}, this site {ours}; both need the same")
    try:
        targets.check({key: value for key, value in run.items() if key != "federation"}, limits.trusted)
        federation = run["federation"]
        for setting, asked, most in (
            ("federation.rounds", federation["rounds"], limits.most_rounds),
            ("federation.local_epochs", federation["local_epochs"], limits.most_local_epochs),
        ):
            if not isinstance(asked, int) or asked > most:
                raise RefusedError(f"{setting}={asked}: at most {most} here")
        if (strategy := federation["strategy"]["_target_"]) not in limits.strategies:
            raise RefusedError(f"federation.strategy={strategy}: not one of limits.strategies")
        if set(run["data"]) != DATA or run["data"]["preprocess"] not in ("log_normalise", "none"):
            raise RefusedError(f"data: {sorted(run['data'])}: {sorted(DATA)} are expected")
        if more := set(run["trainer"]) - TRAINER:
            raise RefusedError(f"trainer: {sorted(more)}")
        for name, callback in run["callbacks"].items():
            if callback["_target_"] not in limits.trusted:
                raise RefusedError(f"callbacks.{name}={callback['_target_']}: not one of limits.trusted")
        if run["split"]["_target_"] != "scfl_green.data.by_client":
            raise RefusedError("split: only a split of each site's own cells (split=donor)")
    except (InputError, KeyError, TypeError, ValueError) as error:
        raise RefusedError(str(error)) from None


def check_emissions(limits: Limits, emissions_g: float) -> None:
    """RefusedError if all trainings together have emitted too much."""
    if limits.emissions_g is not None and emissions_g >= limits.emissions_g:
        raise RefusedError(f"limits.emissions_g={limits.emissions_g:g} are spent")


def check_epsilon(limits: Limits, privacy: Mapping[str, Any] | None, epsilon: float) -> None:
    """RefusedError for a training that could spend more than is left, where all before have spent ``epsilon``."""
    if limits.epsilon is None:
        return
    if not privacy:
        raise RefusedError("training without privacy=dp_sgd, where limits.epsilon is set")
    if not 0 < privacy["epsilon"] <= (left := limits.epsilon - epsilon):
        raise RefusedError(f"privacy.epsilon={privacy['epsilon']}: {left:g} of limits.epsilon are left")
