"""Training, validation and testing of one model on one dataset, in any regime."""

from scfl_green.training.budget import CarbonBudget
from scfl_green.training.ending import BestEnd
from scfl_green.training.pruning import Prune

__all__ = ["BestEnd", "CarbonBudget", "Prune"]
