"""Membership inference: how well a model reveals its training cells (scfl-green leakage RUN ...)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from scfl_green.analysis.score import CONFIDENCE, auc, tpr_at_fpr
from scfl_green.analysis.tables import TOGETHER
from scfl_green.data.features.datamodule import Features
from scfl_green.errors import InputError
from scfl_green.files import write_atomically
from scfl_green.models.base import CellClassifier
from scfl_green.runs.reopen import Reopened, reopen

FPR = 0.01
BATCH = 1024
OF_OTHERS = "test cells are of other donors or clients, which differ from training cells even if nothing leaks"


def leakage(run: Reopened) -> pd.DataFrame:
    """Tell training cells from held-out cells of the same client by their loss alone: a row a client, the last of all
    together. An AUC of .5 means that nothing leaks.

    The loss-threshold attack of Yeom et al. 2018 (CSF, "Privacy Risk in Machine Learning", section 3), which needs less
    than the shadow models of Shokri et al. 2017 (S&P): a lower bound of what leaks. As Carlini et al. 2022 (S&P)
    advise, with the share of training cells found while 1 % of held-out cells are mistaken for some.
    """
    model, features = run.model, run.dataset.features
    by_client = {name: tuple(losses(model, features, rows) for rows in both) for name, both in compared(run).items()}
    together = tuple(map(np.concatenate, zip(*by_client.values(), strict=True)))
    rows = []
    for name, (members, others) in [*by_client.items(), (TOGETHER, together)]:
        area = auc(members, others)
        sizes = {"client": name, "members": len(members), "non_members": len(others)}
        interval = {"auc": area.estimate, "auc_low": area.low, "auc_high": area.high}
        rows.append(sizes | interval | {"tpr_at_1pct_fpr": tpr_at_fpr(members, others, FPR)})
    return pd.DataFrame(rows)


def compared(run: Reopened) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Row numbers of labelled training cells and of labelled held-out cells, by client of the training that has both.

    Held-out cells are test cells where these are a share of every client's cells, and else validation cells that
    nothing was chosen by. InputError where there are none.
    """
    split, cfg, labels = run.dataset.split, run.cfg, run.dataset.features.labels
    of_others = cfg.split.test != "cells"
    # Runs of earlier versions lack the first.
    chose = (cfg.get("end"), cfg.callbacks, cfg.budget, cfg.finetuning.patience)
    if of_others and any(chose) and any(len(part.validation) for part in split.clients.values()):
        raise InputError(
            f"{OF_OTHERS}; and validation cells were used to choose weights: use end=last, or split.test=cells"
        )
    found = {}
    for part in [*split.clients.values(), *split.newcomers.values()]:
        # Weights that a run began with may have been trained on what are validation cells now, but of newcomers.
        usable = run.fresh or part.name in split.newcomers or not of_others
        held_out = part.validation if of_others else part.test
        rows = part.train[labels[part.train] >= 0], held_out[labels[held_out] >= 0]
        if usable and run.left.seen.cells[part.train].all() and all(map(len, rows)):
            found[part.name] = rows
    if not found:
        raise InputError(f"{OF_OTHERS}; there are no validation cells: use split.test=cells, or split.validation=0.1")
    return found


@torch.inference_mode()
def losses(model: CellClassifier, features: Features, rows: np.ndarray) -> np.ndarray:
    """Cross-entropy of each cell, in float64: in float32, that of all confident cells would be 0."""
    batches = features.batches([rows[start : start + BATCH] for start in range(0, len(rows), BATCH)])
    return torch.cat([F.cross_entropy(model(x).double(), y, reduction="none") for x, y in batches]).numpy()


def privacy(folder: Path, trusted: Sequence[str] = ()) -> pd.DataFrame:
    """Write ``privacy.csv`` into a run's folder and print it. Raises InputError if the run cannot be reopened or
    has no cells to compare."""
    run = reopen(folder, trusted)
    try:
        table = leakage(run)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    write_atomically(folder / "privacy.csv", table.to_csv(index=False).encode())
    print(table.to_string(index=False, float_format="{:.3f}".format))
    if run.cfg.split.test != "cells":
        print(f"non-members are validation cells: {OF_OTHERS}")
    print(f"AUC .5: nothing leaks to this attack; intervals of {CONFIDENCE:.0%}\n{folder}: privacy.csv")
    return table
