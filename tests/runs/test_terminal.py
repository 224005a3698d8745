"""What a run prints: tables that fit any terminal, with many clients and cell types of long names."""

import numpy as np
import pandas as pd
import pytest
import torch

from scfl_green.energy.ledger import FIT, Ledger
from scfl_green.runs.cells import cells_text
from scfl_green.runs.summary import summary
from scfl_green.training import testing

WIDTHS = (60, 80, 120)
SCORES = {"accuracy": 0.9, "weighted_f1": 0.91, "macro_f1": 0.92}


def names(n: int, kind: str) -> list[str]:
    """Names of 40 letters that differ only at their ends."""
    return [f"{kind + '-of-a-university-hospital-':_<37}{number:03}" for number in range(n)]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("clients", "types"), [(4, 9), (3, 30), (40, 3), (40, 30), (60, 200), (1, 2)])
def test_the_table_of_cells_fits_with_whole_numbers_and_different_names(
    monkeypatch: pytest.MonkeyPatch, width: int, clients: int, types: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    rng = np.random.default_rng(clients * types)
    counts = rng.integers(0, 30_000, (clients, types))
    text = cells_text(pd.DataFrame(counts, names(clients, "client"), names(types, "type")))
    head, _, *rows = (line for line in text.splitlines() if not line.startswith("..."))
    assert max(map(len, text.splitlines())) <= width
    shown = np.array([[int(word.replace(",", "")) for word in row.split()[1:]] for row in rows])
    heads, labels = head.split(), [row.split()[0] for row in rows]
    assert len(set(heads)) == len(heads) == shown.shape[1]
    assert len(set(labels)) == len(labels) <= 40
    side = counts if labels[0].startswith("c") else counts.T
    if heads[-1] == "all":
        more = side.shape[1] - (len(heads) - 1)
        assert f"{more} more " in text
        assert (shown[:, -1] == side.sum(axis=1)[: len(rows)]).all()
    else:
        assert (shown == side[: len(rows)]).all()
    if len(rows) < len(side):
        assert f"{len(side) - len(rows)} more " in text


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kwh", [1e-6, 10.0])
def test_the_table_of_a_run_fits_with_forty_clients(monkeypatch: pytest.MonkeyPatch, width: int, kwh: float) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    clients, ledger = names(40, "client"), Ledger()
    for client in clients:
        entry = ledger.entry(FIT, 1, client)
        entry.energy_cpu_kwh, entry.emissions_kg, entry.seconds, entry.bytes_up = kwh, kwh, 1e6 * kwh, 10**7
    total = ledger.total(FIT)
    record = {
        **dict.fromkeys(("data", "model", "opt", "regime", "energy_mode", "country"), "name"), "seed": 1,
        **vars(total), "energy_kwh": total.energy_kwh, "seconds_fit": total.seconds, "cells_test": 12345,
        "transfer_kwh": 0.0, "transfer_emissions_kg": 0.0, "carbon_intensity_kg_per_kwh": 0.381,
        "countries": {}, "waited_hours": 0.0, "emissions_g_per_1000_cells": 0.001,
    }  # fmt: skip
    text = summary(
        record,
        testing.TestResult(SCORES, dict.fromkeys(clients, SCORES), torch.zeros(2, 2), torch.zeros(15, 3), 0.0),
        ledger,
    )
    assert max(map(len, text.splitlines())) <= width
    rows = [line.split() for line in text.splitlines() if "0.900" in line]
    assert len({row[0] for row in rows}) == 41
    assert f"{40 * kwh * 1e3:,.4f}" in rows[0]
    assert "12,345 test cells" in text
    heads = [head for head in ("macro F1", "MB", " s") if head in text.split("───")[0]]
    assert len(heads) == 3 or "a wider terminal also shows" in " ".join(text.split())
