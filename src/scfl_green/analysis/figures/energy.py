"""Energy of federated runs by site, round and cause."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scfl_green.analysis.figures import style
from scfl_green.energy.ledger import AGGREGATE, FIT, IDLE, MESSAGES, PREPARE, VALIDATE

PARTS = ("training: CPU", "training: GPU", "training: RAM", "packing, averaging", "network", "idle")
SERVER = "(server)"


def ledger(folder: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """Wh by site and round (0: before training) of federated runs, a mean over them: what a run's energy consists of,
    and what its sites would draw while they wait for the slowest."""
    rows = pd.concat([_of_run(folder, run) for _, run in runs.iterrows()])
    return rows.groupby(["client", "round"], sort=False)[[*PARTS]].sum().div(len(runs)).reset_index()


def _of_run(folder: Path, run: pd.Series) -> pd.DataFrame:
    rows = pd.read_csv(folder / run["folder"] / "energy.csv", dtype={"client": str}, keep_default_na=False)
    rows = rows[rows["phase"].isin([FIT, VALIDATE, PREPARE, MESSAGES, AGGREGATE, IDLE])]
    share = (rows["bytes_up"] + rows["bytes_down"]) / max(run["bytes_up"] + run["bytes_down"], 1)
    by_part = {part: rows[f"energy_{part[-3:].lower()}_kwh"] * (rows["phase"] == FIT) for part in PARTS[:3]}
    whole = rows[["energy_cpu_kwh", "energy_gpu_kwh", "energy_ram_kwh"]].sum(axis=1)
    by_part |= {PARTS[3]: whole * rows["phase"].isin([MESSAGES, AGGREGATE]), "idle": whole * (rows["phase"] == IDLE)}
    wh = {part: kwh * 1e3 for part, kwh in by_part.items()} | {"network": share * run["transfer_wh"]}
    return rows.assign(**wh, client=rows["client"].replace("", SERVER))


def sites(energy: pd.DataFrame, title: str, narrow: bool = False) -> Figure:
    """A bar a site, the largest first, of what used the energy; names stand beside it, however many there are."""
    by, unit = _by(energy, "client")
    by = by.loc[by.sum(axis=1).sort_values().index]
    figure, (axes,) = style.panels(1, narrow, max(1.2, 0.19 * len(by) + 0.5))
    base = np.zeros(len(by))
    for part in by:
        axes.barh(range(len(by)), by[part], left=base, label=str(part), edgecolor="white", **_look(part))
        base += by[part].to_numpy()
    axes.set_yticks(range(len(by)), style.fitted(by.index, 22 if narrow else 40))
    axes.set(ylabel="site", xlabel=f"energy ({unit})", ylim=(-0.6, len(by) - 0.4))
    style.numbers(axes.xaxis)
    return style.finish(figure, title, axes.get_legend_handles_labels()[0])


def rounds(energy: pd.DataFrame, title: str, narrow: bool = False) -> Figure:
    """A bar a round, all sites together, of what used the energy."""
    by, unit = _by(energy, "round")
    figure, (axes,) = style.panels(1, narrow, 2.2)
    base = np.zeros(len(by))
    for part in by:
        axes.bar(by.index, by[part], bottom=base, label=str(part), edgecolor="white", **_look(part))
        base += by[part].to_numpy()
    axes.set(xlabel="round", ylabel=f"energy ({unit})")
    whole_numbers(axes)
    style.numbers(axes.yaxis)
    return style.finish(figure, title, axes.get_legend_handles_labels()[0])


def whole_numbers(axes: Axes) -> None:
    """Ticks at whole numbers of rounds or epochs, of which some may be left out."""
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))


def _by(energy: pd.DataFrame, column: str) -> tuple[pd.DataFrame, str]:
    summed = energy.groupby(column)[[*PARTS]].sum()
    scaled, unit = style.scaled(summed.sum(axis=1), "Wh")
    factor = (scaled / summed.sum(axis=1)).max()
    return summed.loc[:, summed.any()] * factor, unit


def _look(part: object) -> dict[str, Any]:
    place = PARTS.index(str(part))
    return {"color": style.COLOURS[place], "hatch": style.HATCHES[place]}


def largest(energy: pd.DataFrame, parts: Sequence[str] = PARTS) -> tuple[str, float]:
    """The cause that used most, and its share of all."""
    total = energy[[*parts]].sum()
    return str(total.idxmax()), float(total.max() / total.sum()) if total.sum() else 0.0
