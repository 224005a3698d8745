"""One run, from a configuration to a record; exports what configurations refer to."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scfl_green.runs.loggers import wandb_logger
    from scfl_green.runs.regimes import central, federated, finetune

__all__ = ["central", "federated", "finetune", "wandb_logger"]


def __getattr__(name: str) -> Any:
    """Import exported names on demand, since names.py and program.py must not import torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{'loggers' if name == 'wandb_logger' else 'regimes'}"), name)
