"""The table at the end of a run."""

from typing import Any

import pandas as pd

from scfl_green.data.partition import POOLED
from scfl_green.energy.eaps import eaps
from scfl_green.energy.ledger import FIT, Ledger
from scfl_green.runs.scoring import SCORES
from scfl_green.terminal import drawn, terminal_width
from scfl_green.training.testing import TestResult

HEADS = ("", "accuracy", "F1", "macro F1", "Wh", "g CO2e", "EAPS", "MB", "s")
# Left out on a narrow terminal, in this order.
LEAST = ("s", "MB", "macro F1")
# Letters of a client's name that tell which it is.
FEWEST_LETTERS = 20


def summary(record: dict[str, Any], tested: TestResult, ledger: Ledger) -> str:
    """The scores on test cells and the consumption of training, of the run and each client, as a table that fits the
    terminal; on a narrow one without some columns, which its caption names."""
    rows = [["run", *_row(tested.scores, _used(record, record["bytes_up"] + record["bytes_down"]))]]
    if elsewhere := {name: value for name in SCORES if (value := tested.scores.get(f"elsewhere_{name}")) is not None}:
        rows.append(["at the other sites", *_row(elsewhere, None)])
    trained = {entry.client for entry in ledger.entries.values() if entry.phase == FIT} - {POOLED}
    for name in sorted(tested.by_part.keys() | trained):
        # Central training pools the cells: clients themselves use nothing.
        used = _of_client(record, ledger, name) if name in trained else None
        rows.append([name, *_row(tested.by_part.get(name), used)])
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


def _used(used: dict[str, Any], moved: int) -> dict[str, float]:
    """What training and transfer used together; the transfer is that of ``moved`` bytes."""
    kwh, kg = used["energy_kwh"] + used["transfer_kwh"], used["emissions_kg"] + used["transfer_emissions_kg"]
    return {"kwh": kwh, "kg": kg, "moved": moved, "seconds": used["seconds_fit"]}


def _of_client(record: dict[str, Any], ledger: Ledger, name: str) -> dict[str, float]:
    """The same of one client: its part of the transfer is that of its bytes, each as emitting as its electricity."""
    fit, moved, all_moved = ledger.trained(client=name), ledger.transferred(client=name), ledger.transferred()
    n_bytes = moved.bytes_up + moved.bytes_down
    transfer = {
        "transfer_kwh": record["transfer_kwh"] * n_bytes / max(all_moved.bytes_up + all_moved.bytes_down, 1),
        "transfer_emissions_kg": record["transfer_emissions_kg"] * moved.gb_kg_per_kwh / (all_moved.gb_kg_per_kwh or 1),
    }
    return _used({**vars(fit), "energy_kwh": fit.energy_kwh, "seconds_fit": fit.seconds, **transfer}, n_bytes)


def _row(scores: dict[str, float] | None, used: dict[str, float] | None) -> list[str]:
    """A row: scores, if there are test cells, and the consumption of training and transfer, if any."""
    row = [f"{scores[name]:.3f}" if scores else "–" for name in SCORES]
    if used is None:
        return [*row, *["–"] * 5]
    score = eaps(scores["weighted_f1"], used["kg"]) if scores else None
    return [
        *row,
        f"{used['kwh'] * 1e3:,.4f}",
        f"{used['kg'] * 1e3:,.4f}",
        "–" if score is None else f"{score:,.0f}" if score < 1e6 else f"{score / 1e3:,.0f}k",
        f"{used['moved'] / 1e6:,.1f}",
        f"{used['seconds']:,.1f}",
    ]


def _caption(record: dict[str, Any]) -> str:
    transfer = record["transfer_kwh"] / (record["transfer_kwh"] + record["energy_kwh"])
    where = ", ".join(sorted({record["country"], *record["countries"].values()}))
    per_cells = record["emissions_g_per_1000_cells"]
    waited = f"; waited {record['waited_hours']:.1f} h for cleaner ones" if record["waited_hours"] else ""
    return (
        f"on {record['cells_test']:,} test cells; energy of training ({record['energy_mode']}) and of transfer "
        f"({transfer:.0%}); {where}: {record['carbon_intensity_kg_per_kwh']:.3f} kg CO2e/kWh{waited}; "
        f"{f'{per_cells * 1e6:,.2g} µg CO2e per 1,000 cells annotated; ' if per_cells is not None else ''}"
        "EAPS: weighted F1 per kg CO2e"
    )
