"""What a sweep would say if transferring a gigabyte took another energy, which is not known to three digits."""

from typing import Any

import numpy as np
import pandas as pd

from scfl_green.analysis.results import NETWORKS, method
from scfl_green.analysis.tables import compare

WINS = "wins at (kWh/GB)"


def transfers(results: pd.DataFrame) -> bool:
    """Whether any run sent anything."""
    return bool((results["bytes_up"] + results["bytes_down"]).any())


def compare_networks(results: pd.DataFrame, over: str, reference: str | None = None) -> pd.DataFrame:
    """``tables.compare``, and where anything was sent, the energies of a gigabyte at which each method wins; a winner
    is robust only if it wins at all of them."""
    table = compare(results, over, reference)
    if table.empty or not transfers(results):
        return table
    measures = {"eaps": as_set(results), **NETWORKS}
    best = {kwh: compare(results, over, reference, measure)["best"] for measure, kwh in measures.items()}
    wins = pd.DataFrame({kwh: best[kwh] == "wins" for kwh in sorted(best)})
    # Where nothing was sent, a gigabyte changes only the other cells that p-values are adjusted for.
    sent = (results["bytes_up"] + results["bytes_down"]).groupby(results["regime"]).any()
    silent = ~table["regime"].map(sent).astype(bool)
    wins[silent] = wins.loc[silent, [measures["eaps"]] * len(wins.columns)].to_numpy()
    return table.assign(**{WINS: [_listed(row) for _, row in wins.iterrows()]})


def as_set(results: pd.DataFrame) -> float:
    """The kWh per GB by which a sweep's runs counted; the mean if they differ."""
    sent = results[results["bytes_up"] + results["bytes_down"] > 0]
    return float(np.mean(sent["transfer_kwh"] / (sent["bytes_up"] + sent["bytes_down"]) * 1e9))


def _listed(wins: pd.Series) -> str:
    """E.g. ``0.0001, 0.002`` or ``all (robust)``."""
    return "all (robust)" if wins.all() else ", ".join(f"{kwh:g}" for kwh in wins.index[wins])


def movable(results: pd.DataFrame) -> dict[str, Any] | None:
    """What the page needs to rank methods by EAPS at any energy of a gigabyte; None if nothing was sent."""
    trained = results[results["regime"] != "finetune"]
    if not transfers(trained):
        return None
    keys = [key for key in method(trained) if trained[key].nunique() > 1] or ["model"]
    trained = trained.assign(
        gb=(trained["bytes_up"] + trained["bytes_down"]) / 1e9, name=trained[keys].astype(str).agg(" · ".join, axis=1)
    )
    columns = ["weighted_f1", "macro_f1", "energy_kwh", "gb", "kg_per_kwh", "network_kg_per_kwh"]
    means = trained.groupby("name")[columns].mean().reset_index()
    kwh = as_set(trained)
    transfer = means["gb"] * kwh
    kg = means["energy_kwh"] * means["kg_per_kwh"] + transfer * means["network_kg_per_kwh"]
    means["emissions_mg"] = kg * 1e6
    means["transfer_percent"] = 100 * transfer / (means["energy_kwh"] + transfer)
    means["eaps"] = means["weighted_f1"] / means["emissions_mg"] * 1e6
    return {
        "kwh_per_gb": kwh,
        "position": np.log10(kwh),
        "methods": means.sort_values("eaps", ascending=False).to_dict("records"),
    }
