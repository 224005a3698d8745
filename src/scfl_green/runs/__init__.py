"""One run, from a configuration to a record; exports what configurations refer to."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scfl_green.runs.each_site import local
    from scfl_green.runs.fine_tuning import finetune
    from scfl_green.runs.loggers import wandb_logger
    from scfl_green.runs.newcomer import FineTuning
    from scfl_green.runs.regimes import central, federated

__all__ = ["FineTuning", "central", "federated", "finetune", "local", "wandb_logger"]
# Modules of the names that are not in ``regimes``.
HOMES = {"FineTuning": "newcomer", "finetune": "fine_tuning", "local": "each_site", "wandb_logger": "loggers"}


def __getattr__(name: str) -> Any:
    """Import exported names on demand, since names.py and program.py must not import torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{HOMES.get(name, 'regimes')}"), name)
