"""Reads a sweep's results.csv: a row per run, with the columns that tell methods apart."""

from pathlib import Path

import numpy as np
import pandas as pd

from scfl_green.analysis.score import FEWEST
from scfl_green.energy.eaps import HIGH_NETWORK_KWH_PER_GB, LOW_NETWORK_KWH_PER_GB

METHOD = ["data", "regime", "model", "opt"]
SCORES = ["accuracy", "weighted_f1", "macro_f1"]
# EAPS if a gigabyte took other energy (kWh).
NETWORKS = {"eaps_low_network": LOW_NETWORK_KWH_PER_GB, "eaps_high_network": HIGH_NETWORK_KWH_PER_GB}
# Emissions per functional unit of SCI for AI.
PER_UNIT = ["emissions_g_per_model", "emissions_g_per_1000_cells"]
ENERGY = ["emissions_g", "eaps", "eaps_training", "eaps_cpu", *NETWORKS, "energy_wh", "seconds_fit"]
# Scores that runs of earlier versions may lack.
LATER = ["balanced_accuracy", "calibration_error"]
MEASURES = [*SCORES, *LATER, *ENERGY, *PER_UNIT]


def read_results(folder: Path, intensity: float | None = None) -> pd.DataFrame:
    """The runs of a sweep, a row each, with energy and emissions of training and transfer together (Wh, g CO2e).

    ``intensity`` (kg CO2e per kWh) tells what they would have emitted elsewhere: all sites and the server, at any hour.
    """
    # Hashes may be all digits.
    results = pd.read_csv(folder / "results.csv", dtype={"method": str})
    results = _told_apart(results.reindex(columns=[*results.columns, *(n for n in LATER if n not in results)]))
    results = results.sort_values([*method(results), "seed"], ignore_index=True)
    results["energy_wh"] = (results["energy_kwh"] + results["transfer_kwh"]) * 1e3
    results["transfer_wh"] = results["transfer_kwh"] * 1e3
    _weigh(results, intensity)
    training, network = results["kg_per_kwh"], results["network_kg_per_kwh"]
    results["emissions_g"] = (results["energy_kwh"] * training + results["transfer_kwh"] * network) * 1e3
    results["eaps"] = results["weighted_f1"] / (results["emissions_g"] / 1e3)
    results["eaps_training"] = results["weighted_f1"] / (results["energy_kwh"] * training)
    measured_kg = (results["energy_cpu_kwh"] + results["energy_gpu_kwh"]) * training
    results["eaps_cpu"] = results["weighted_f1"] / (measured_kg + results["transfer_kwh"] * network)
    gb = (results["bytes_up"] + results["bytes_down"]) / 1e9
    for measure, kwh_per_gb in NETWORKS.items():
        kg = results["energy_kwh"] * training + gb * kwh_per_gb * network
        results[measure] = results["weighted_f1"] / kg
    return results


def _weigh(results: pd.DataFrame, intensity: float | None) -> None:
    """Add the kg CO2e per kWh of training and of transfer (``network_kg_per_kwh``), which sites and hours may tell
    apart, and set the fields of emissions by them."""
    own = results["carbon_intensity_kg_per_kwh"]
    # Without any transfer, or where a gigabyte takes nothing, it is not known.
    network = (results["transfer_emissions_kg"] / results["transfer_kwh"]).where(results["transfer_kwh"] > 0, own)
    training = own if intensity is None else pd.Series(intensity, results.index)
    results["transfer_emissions_kg"] *= (network if intensity is None else training) / network
    for name in [*results.filter(like="emissions_kg").columns.drop("transfer_emissions_kg"), PER_UNIT[1]]:
        # Runs of an earlier version may lack a field.
        results[name] = results.get(name, np.nan) * (training / own)
    models = results["clients"].where(results["regime"] == "local", 1)
    results[PER_UNIT[0]] = (results["emissions_kg"] + results["transfer_emissions_kg"]) * 1e3 / models
    results["kg_per_kwh"], results["network_kg_per_kwh"] = training, network if intensity is None else training


def estimated(results: pd.DataFrame) -> bool:
    """Whether no counter measured the energy of any run, so that the watts of CPU and RAM are estimates."""
    return not results["energy_mode"].str.contains("measured").any()


def _told_apart(results: pd.DataFrame) -> pd.DataFrame:
    """With every setting as it is varied, and ``variant``, a hash, where runs still differ in more than their seed."""
    place = list(results.columns).index("seed")
    if results["split"].nunique() > 1:
        results.insert(place, "splits", results["split"])
    keys = varied(results)
    # Where a run does not have a setting at all, its other choices say so.
    results[keys] = results[keys].where(results[keys].notna(), "none")
    variants = results.reindex(columns=["method"])["method"].fillna("")
    if (variants.groupby([results[key] for key in method(results)]).transform("nunique") > 1).any():
        results.insert(list(results.columns).index("seed"), "variant", variants.str[:4])
    return results


def varied(results: pd.DataFrame) -> list[str]:
    """The settings beyond those of every sweep that were varied in this one: the columns from split to seed."""
    columns = list(results.columns)
    return columns[columns.index("split") + 1 : columns.index("seed")] if "split" in columns else []


def method(results: pd.DataFrame) -> list[str]:
    """The columns by which runs are repeats of each other, which differ in the seed alone."""
    return [*METHOD, *varied(results)]


def axes(trained: pd.DataFrame) -> list[str]:
    """What methods are compared by: the opts, each setting that was varied, frameworks; regimes, if that is all. Other
    splits have other test cells, on which nothing is compared."""
    settings = [column for column in varied(trained) if not column.startswith("split")]
    found = [column for column in ("opt", *settings, "model") if trained[column].nunique() > 1]
    return found or [column for column in ("regime",) if trained[column].nunique() > 1]


def looks(results: pd.DataFrame) -> int:
    """At how many numbers of seeds the sweep of these runs may have ended: 1, unless it adds seeds as it needs them."""
    if "max_seeds" not in results:
        return 1
    return max(1, int(results["max_seeds"].max()) - max(int(results["seeds"].min()), FEWEST) + 1)
