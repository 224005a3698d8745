"""Settings of the process that trains."""

import logging
import warnings

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

# Irrelevant warnings of Lightning: loaders here slice whole batches, which workers would only copy; a run is one
# process, also where SLURM could start several; and deprecations.
NOISE = (".*does not have many workers", ".*srun. command is available", ".*isinstance.treespec, LeafSpec")


def set_up_process(cfg: DictConfig) -> None:
    """Make what follows reproducible, and quiet."""
    # Set by Lightning on import; else it reports every fit.
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for message in NOISE:
        warnings.filterwarnings("ignore", message=message)
    pl.seed_everything(cfg.seed, verbose=False)
    torch.set_num_threads(cfg.threads)
    # A debugging aid of deterministic algorithms, which fills all memory that is allocated.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010  # unknown to its types
