"""Finished runs -> tables, figures and one page: scfl-green report RUN|SWEEP [--country FRA] [--open]

Also at the end of every sweep. The page holds all it shows; nothing is fetched when it is opened.
"""

import json
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from scfl_green.analysis import network, page, sections, tables
from scfl_green.analysis.collect import collect
from scfl_green.analysis.drawings import drawings
from scfl_green.analysis.headline import headlines
from scfl_green.analysis.results import read_results
from scfl_green.analysis.undecided import decisions
from scfl_green.energy.country import carbon_intensity
from scfl_green.errors import InputError
from scfl_green.files import write_atomically
from scfl_green.security.confidential import shown


def report(folder: Path, country: str | None = None) -> Path:
    """Write ``summary.csv``, ``figures/``, ``tables/`` and ``report.html`` of a sweep, or of a single run; gives the
    path of the page.

    ``country`` tells what the same runs would have emitted there, all sites and the server, at its yearly mean. Raises
    InputError where there are no runs.
    """
    if collect(folder).empty:
        raise InputError(f"{folder}: no finished runs; name the folder of a sweep, such as logs/sweeps/grid_pancreas")
    results = read_results(folder, carbon_intensity(country) if country else None)
    summary = tables.summarise(results).assign(decision=decisions(results))
    write_atomically(folder / "summary.csv", summary.to_csv(index=False).encode())
    for name in ("figures", "tables"):
        (folder / name).mkdir(exist_ok=True)
    shown_tables = []
    for name, title, note, rows in sections.sections(folder, results):
        page.write_table(folder / "tables", name, rows)
        shown_tables.append(page.table(name, title, note, rows))
    content = page.render(
        name=folder.resolve().name,
        headlines=headlines(results),
        about=_about(results, country),
        figures=[page.draw(one, folder / "figures", i) for i, one in enumerate(drawings(folder, results))],
        tables=shown_tables,
        network=network.movable(results),
        method=_method(results),
        command=_command(folder),
    )
    write_atomically(folder / "report.html", content)
    return folder / "report.html"


# By what is held out for testing.
TESTED_ON = {
    "cells": "a share of every client's cells, so of donors whose other cells were trained on",
    "donors": "all cells of donors that nobody trained on",
    "sites": "all cells of sites that nobody trained on",
}


def _about(results: pd.DataFrame, country: str | None) -> str:
    data, seeds = (", ".join(map(str, sorted(results[column].unique()))) for column in ("data", "seed"))
    where = _where(results, country)
    short = int(results["too_short"].sum())
    warned = f" {short} of them trained for too short a time for their energy to mean much." if short else ""
    # Runs of an earlier version lack the field.
    held_out = results.reindex(columns=["tested_on"])["tested_on"].dropna().unique()
    tested = "".join(f" Test cells ({of}): {TESTED_ON[of]}." for of in sorted(held_out))
    runs = f"{len(results)} runs" if len(results) > 1 else "One run"
    return (
        f"{runs} on {data}, by seed: {seeds}; emissions as in {where}.{warned}{tested} "
        "F1 per gram is EAPS: weighted F1 by the CO2e of training and transfer. Intervals are Student's, of 95%, over "
        "seeds; they say nothing of other datasets, splits or machines."
    )


def _where(results: pd.DataFrame, country: str | None) -> str:
    if country is not None:
        return f"{country}, all sites and the server there, at its mean of a year"
    # Runs of an earlier version lack the field.
    of_sites = [json.loads(countries) for countries in results.reindex(columns=["countries"])["countries"].dropna()]
    return ", ".join(sorted({*results["country"], *(code for countries in of_sites for code in countries.values())}))


def _method(results: pd.DataFrame) -> str:
    modes = "; ".join(sorted(results["energy_mode"].unique()))
    first = results.iloc[0]
    # Runs of an earlier version may lie in the same folder, and lack a field.
    load = results.reindex(columns=["load_at_start"])["load_at_start"].dropna()
    loads = f"{load.min():.0%} to {load.max():.0%}" if len(load) else "not known"
    return (
        f"{modes}. Threads: {first['threads']}, cores: {first['cores']}, device: {first['device']} "
        f"({first['processor']}); load at the start: {loads}. Versions: {first['versions']}. Network: see "
        "carbon.network_kwh_per_gb."
    )


def _command(folder: Path) -> str:
    """What started the sweep or run, as Hydra noted it; empty where it noted nothing."""
    try:
        noted: Any = OmegaConf.to_container(OmegaConf.load(folder / "multirun.yaml"), resolve=False)
        overrides = noted["hydra"]["overrides"]["task"]
        several = [] if "experiment=" in " ".join(overrides) else ["-m"]
    except (OSError, KeyError, TypeError):
        if not (path := folder / ".hydra/overrides.yaml").exists():
            return ""
        overrides, several = list(OmegaConf.load(path)), []
    return " ".join(["python train.py", *several, *(shlex.quote(shown(override)) for override in overrides)])
