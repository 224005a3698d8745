"""One run, from a configuration to a record; what is exported is what a configuration names."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scfl_green.runs.regimes import central, federated, finetune
    from scfl_green.runs.tracking import wandb_logger

__all__ = ["central", "federated", "finetune", "wandb_logger"]


def __getattr__(name: str) -> Any:
    """Exported names are imported when they are asked for: names and program, in this folder, do without torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{'tracking' if name == 'wandb_logger' else 'regimes'}"), name)
