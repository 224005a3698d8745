"""The table at the end of a run."""

import logging
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from scfl_green.data.partition import POOLED
from scfl_green.energy.eaps import eaps
from scfl_green.energy.ledger import FIT
from scfl_green.energy.meter import EnergyMeter
from scfl_green.training.testing import TestResult

LOG = logging.getLogger(__name__)
SCORES = ("accuracy", "weighted_f1", "macro_f1")


def print_summary(record: dict[str, Any], tested: TestResult, meter: EnergyMeter) -> None:
    """Print scores on test cells and the consumption of training, for the run and each client."""
    title = "{data} · {model} · {opt} · {regime} · seed {seed}".format(**record)
    table = Table(title=title, box=SIMPLE_HEAD, caption=_caption(record), padding=0, pad_edge=False)
    table.add_column("", overflow="ellipsis", no_wrap=True, max_width=24)
    for name in ("accuracy", "F1", "macro F1", "Wh", "g CO2e", "EAPS", "MB", "s"):
        table.add_column(name, justify="right", no_wrap=True)
    moved = record["bytes_up"] + record["bytes_down"]
    table.add_row("run", *_row(record, tested.scores, record, moved))
    if elsewhere := {name: value for name in SCORES if (value := tested.scores.get(f"elsewhere_{name}")) is not None}:
        table.add_row("at the other sites", *_row(record, elsewhere, None, 0))
    trained = {entry.client for entry in meter.entries.values() if entry.phase == FIT} - {POOLED}
    for name in sorted(tested.by_part.keys() | trained):
        moved = sum(meter.moved(client=name))
        fit = meter.trained(client=name)
        used = {"energy_kwh": fit.energy_kwh, "emissions_kg": fit.emissions_kg, "seconds_fit": fit.seconds}
        # Central training pools the cells: clients themselves use nothing.
        table.add_row(escape(name), *_row(record, tested.by_part.get(name), used if name in trained else None, moved))
    # Plain text, which also goes to the log file.
    console = Console(color_system=None)
    with console.capture() as drawn:
        console.print(table)
    LOG.info(drawn.get().rstrip())


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
        f"{(used['energy_kwh'] + share * record['transfer_kwh']) * 1e3:.4f}",
        f"{emissions_kg * 1e3:.4f}",
        "–" if score is None else f"{score:,.0f}" if score < 1e6 else f"{score / 1e3:,.0f}k",
        f"{moved / 1e6:.1f}",
        f"{used['seconds_fit']:.1f}",
    ]


def _caption(record: dict[str, Any]) -> str:
    transfer = record["transfer_kwh"] / (record["transfer_kwh"] + record["energy_kwh"])
    return (
        f"on {record['cells_test']} test cells; energy of training ({record['energy_mode']}) and of transfer "
        f"({transfer:.0%}); {record['country']}: {record['carbon_intensity_kg_per_kwh']:.3f} kg CO2e/kWh; "
        "EAPS: weighted F1 per kg CO2e"
    )
