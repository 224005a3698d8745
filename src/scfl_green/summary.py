"""The table that a run ends with."""

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from scfl_green.carbon import FIT, EnergyMeter
from scfl_green.data.partition import POOLED
from scfl_green.score import eaps

SCORES = ("accuracy", "weighted_f1", "macro_f1")


def print_summary(record: dict[str, Any], scores: dict[str, dict[str, float]], meter: EnergyMeter) -> None:
    """Print scores on test cells, and what training used, for the run and for each client."""
    title = "{data} · {model} · {opt} · {regime} · seed {seed}".format(**record)
    table = Table(title=title, box=SIMPLE_HEAD, caption=_caption(record), padding=0, pad_edge=False)
    table.add_column("", overflow="ellipsis", no_wrap=True, max_width=24)
    for name in ("accuracy", "F1", "macro F1", "Wh", "g CO2e", "EAPS", "MB", "s"):
        table.add_column(name, justify="right", no_wrap=True)
    emissions_kg = record["emissions_kg"] + record["transfer_emissions_kg"]
    moved = record["bytes_up"] + record["bytes_down"]
    energy_kwh = record["energy_kwh"] + record["transfer_kwh"]
    table.add_row("run", *_cells(scores[""], energy_kwh, emissions_kg, moved, record["seconds_fit"]), style="bold")
    trained = {entry.client for entry in meter.entries.values() if entry.phase == FIT} - {POOLED}
    for name in sorted((scores.keys() | trained) - {""}):
        table.add_row(name, *_client(record, scores.get(name), meter, name))
    Console().print(table)


def _client(record: dict[str, Any], scores: dict[str, float] | None, meter: EnergyMeter, name: str) -> list[str]:
    fit = meter.total(FIT, client=name)
    moved = sum(e.bytes_up + e.bytes_down for e in meter.entries.values() if e.client == name)
    share = moved / max(record["bytes_up"] + record["bytes_down"], 1)
    energy_kwh = fit.energy_kwh + share * record["transfer_kwh"]
    emissions_kg = fit.emissions_kg + share * record["transfer_emissions_kg"]
    cells = _cells(scores or dict.fromkeys(SCORES, 0.0), energy_kwh, emissions_kg, moved, fit.seconds)
    # A client without test cells has no scores; one whose cells were trained on elsewhere, pooled, has no energy.
    measured = [scores is not None] * 3 + [fit.seconds > 0] * 2 + [scores is not None and fit.seconds > 0]
    return [cell if shown else "–" for cell, shown in zip(cells, [*measured, *[fit.seconds > 0] * 2], strict=True)]


def _cells(scores: dict[str, float], energy_kwh: float, emissions_kg: float, moved: int, seconds: float) -> list[str]:
    score = eaps(scores["weighted_f1"], emissions_kg)
    return [
        *(f"{scores[name]:.3f}" for name in SCORES),
        f"{energy_kwh * 1e3:.4f}",
        f"{emissions_kg * 1e3:.4f}",
        "–" if score is None else f"{score:,.0f}" if score < 1e6 else f"{score / 1e3:,.0f}k",
        f"{moved / 1e6:.1f}",
        f"{seconds:.1f}",
    ]


def _caption(record: dict[str, Any]) -> str:
    transfer = record["transfer_kwh"] / (record["transfer_kwh"] + record["energy_kwh"])
    return (
        f"on {record['cells_test']} test cells; energy of training ({record['energy_mode']}) and of transfer "
        f"({transfer:.0%}); {record['country']}: {record['carbon_intensity_kg_per_kwh']:.3f} kg CO2e/kWh; "
        "EAPS: weighted F1 per kg CO2e"
    )
