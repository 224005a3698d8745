"""The results of a run as Weights & Biases shows them: a summary, tables and a plot of the confusion matrix."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

# W&B's own chart of this name, and the columns that it draws.
CONFUSION_CHART = "wandb/confusion_matrix/v1"
CONFUSION_COLUMNS = ("Actual", "Predicted", "nPredictions")


def log_results(run: Any, record: dict[str, Any], tables: Mapping[str, pd.DataFrame]) -> None:
    """Write the record to the summary of a W&B run, and log it and ``tables`` as W&B tables.

    ``confusion`` (cells by true and predicted type) becomes W&B's chart of it, and a table of F1 by type.
    """
    import wandb

    others = {name: table.reset_index() for name, table in tables.items() if name != "confusion"}
    fields = pd.DataFrame({"field": record.keys(), "value": map(str, record.values())})
    shown = {"record": fields, **others, "f1_by_type": f1_by_type(tables["confusion"])}
    logged = {name: _table(run, name, table) for name, table in shown.items()}
    cells = _table(run, "confusion_table", _long(tables["confusion"]))
    columns = dict(zip(CONFUSION_COLUMNS, CONFUSION_COLUMNS, strict=True))
    logged["confusion"] = wandb.plot_table(CONFUSION_CHART, cells, columns, {"title": "Test cells by type"})
    run.log(logged)
    run.summary.update(record)


def f1_by_type(confusion: pd.DataFrame) -> pd.DataFrame:
    """F1 and number of test cells of each cell type, from counts by true (rows) and predicted type; no F1 (NaN) for a
    type that is neither."""
    counts = confusion.to_numpy(dtype=float)
    true, found = counts.sum(axis=1), counts.sum(axis=0)
    with np.errstate(invalid="ignore"):
        f1 = 2 * counts.diagonal() / (true + found)
    return pd.DataFrame({"type": confusion.index, "test_cells": true.astype(int), "f1": f1})


def _long(confusion: pd.DataFrame) -> pd.DataFrame:
    """A row for each pair of true and predicted type."""
    rows = [(true, found, count) for true, row in confusion.iterrows() for found, count in row.items()]
    return pd.DataFrame(rows, columns=CONFUSION_COLUMNS)


def _table(run: Any, name: str, table: pd.DataFrame) -> Any:
    """A W&B table as a file of the run. ``run.log`` alone would also make an artifact of it, whose manifest holds the
    path of the user's home."""
    import wandb

    made = wandb.Table(columns=[*map(str, table.columns)], data=table.to_numpy(dtype=object).tolist())
    made.bind_to_run(run, name, run.step)
    return made
