"""The table at the end of a run."""

from typing import Any

import pandas as pd

from scfl_green.data.partition import POOLED
from scfl_green.energy.eaps import eaps
from scfl_green.energy.ledger import FIT, Ledger
from scfl_green.runs.scoring import SCORES
from scfl_green.runs.terminal import drawn, terminal_width
from scfl_green.training.testing import TestResult

HEADS = ("", "accuracy", "F1", "macro F1", "Wh", "g CO2e", "EAPS", "MB", "s")
# Left out on a narrow terminal, in this order.
LEAST = ("s", "MB", "macro F1")
# Letters of a client's name that tell which it is.
FEWEST_LETTERS = 20


def summary(record: dict[str, Any], tested: TestResult, ledger: Ledger) -> str:
    """The scores on test cells and the consumption of training, of the run and each client, as a table that fits the
    terminal; on a narrow one without some columns, which its caption names."""
    moved = record["bytes_up"] + record["bytes_down"]
    rows = [["run", *_row(record, tested.scores, record, moved)]]
    if elsewhere := {name: value for name in SCORES if (value := tested.scores.get(f"elsewhere_{name}")) is not None}:
        rows.append(["at the other sites", *_row(record, elsewhere, None, 0)])
    trained = {entry.client for entry in ledger.entries.values() if entry.phase == FIT} - {POOLED}
    for name in sorted(tested.by_part.keys() | trained):
        moved = sum(ledger.moved(client=name))
        fit = ledger.trained(client=name)
        used = {"energy_kwh": fit.energy_kwh, "emissions_kg": fit.emissions_kg, "seconds_fit": fit.seconds}
        # Central training pools the cells: clients themselves use nothing.
        rows.append([name, *_row(record, tested.by_part.get(name), used if name in trained else None, moved)])
    table = pd.DataFrame(rows, columns=[*HEADS])
    table = table.drop(columns=(dropped := _too_wide(table)))
    title = "{data} · {model} · {opt} · {regime} · seed {seed}".format(**record)
    caption = _caption(record) + (f"; a wider terminal also shows {', '.join(dropped)}" if dropped else "")
    return drawn([*table], table.to_numpy().tolist(), title=title, caption=caption)


def _too_wide(table: pd.DataFrame) -> list[str]:
    """The columns to leave out, so that the names of clients keep ``FEWEST_LETTERS``."""
    widths = {head: 1 + max(map(len, (head, *values))) for head, values in table.items() if head}
    needed = min(FEWEST_LETTERS, max(map(len, table[""]))) + 2
    dropped: list[str] = []
    while sum(widths.values()) + needed > terminal_width() and len(dropped) < len(LEAST):
        dropped.append(LEAST[len(dropped)])
        del widths[dropped[-1]]
    return dropped


def _row(record: dict[str, Any], scores: dict[str, float] | None, used: dict[str, Any] | None, moved: int) -> list[str]:
    """A row: scores, if there are test cells, and the consumption of training and of transferring ``moved`` bytes."""
    row = [f"{scores[name]:.3f}" if scores else "–" for name in SCORES]
    if used is None:
        return [*row, *["–"] * 5]
    share = moved / max(record["bytes_up"] + record["bytes_down"], 1)
    emissions_kg = used["emissions_kg"] + share * record["transfer_emissions_kg"]
    score = eaps(scores["weighted_f1"], emissions_kg) if scores else None
    return [
        *row,
        f"{(used['energy_kwh'] + share * record['transfer_kwh']) * 1e3:,.4f}",
        f"{emissions_kg * 1e3:,.4f}",
        "–" if score is None else f"{score:,.0f}" if score < 1e6 else f"{score / 1e3:,.0f}k",
        f"{moved / 1e6:,.1f}",
        f"{used['seconds_fit']:,.1f}",
    ]


def _caption(record: dict[str, Any]) -> str:
    transfer = record["transfer_kwh"] / (record["transfer_kwh"] + record["energy_kwh"])
    return (
        f"on {record['cells_test']:,} test cells; energy of training ({record['energy_mode']}) and of transfer "
        f"({transfer:.0%}); {record['country']}: {record['carbon_intensity_kg_per_kwh']:.3f} kg CO2e/kWh; "
        "EAPS: weighted F1 per kg CO2e"
    )
