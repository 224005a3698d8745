"""What is said of a winner if a gigabyte took another energy."""

import numpy as np
import pandas as pd
import pytest

from scfl_green.analysis.network import WINS, compare_networks, movable
from scfl_green.analysis.results import NETWORKS

SET = 0.002  # kWh per GB


def made(methods: dict[str, tuple[float, float]], seeds: int = 5) -> pd.DataFrame:
    """Federated runs of opts, given as kWh of training and GB sent."""
    rng = np.random.default_rng(0)
    rows = []
    for opt, (kwh, gb) in methods.items():
        for seed in range(1, seeds + 1):
            used = kwh * np.exp(rng.normal(0, 0.01))
            row = {"data": "d", "regime": "federated", "model": "m", "opt": opt, "split": "donor", "seed": seed}
            energy = {"energy_kwh": used, "energy_wh": (used + gb * SET) * 1e3, "transfer_kwh": gb * SET}
            energy |= {"kg_per_kwh": 0.4, "network_kg_per_kwh": 0.4}
            emitted = {
                "emissions_g": energy["energy_wh"] * 0.4,
                "weighted_f1": 0.9,
                "macro_f1": 0.9,
                "bytes_up": gb * 1e9,
            }
            eaps = {name: 0.9 / ((used + gb * per_gb) * 0.4) for name, per_gb in {"eaps": SET, **NETWORKS}.items()}
            rows.append(row | energy | emitted | eaps | {"bytes_down": 0.0})
    return pd.DataFrame(rows)


def test_a_winner_is_robust_only_if_it_wins_at_every_energy_of_a_gigabyte() -> None:
    frugal = compare_networks(made({"baseline": (2e-5, 0.1), "small": (1e-5, 0.05)}), "opt", "baseline")
    assert frugal.set_index("opt")[WINS].to_dict() == {"baseline": "", "small": "all (robust)"}
    # It trains for longer and sends less: worth it only where a gigabyte takes much.
    quiet = compare_networks(made({"baseline": (1e-5, 0.1), "quiet": (5e-5, 0.02)}), "opt", "baseline")
    assert quiet.set_index("opt")[WINS].to_dict() == {"baseline": "0.0001", "quiet": "0.002, 0.03"}


def test_what_was_not_sent_is_not_asked_about() -> None:
    central = made({"baseline": (2e-5, 0.0), "small": (1e-5, 0.0)})
    assert WINS not in compare_networks(central, "opt", "baseline")
    assert movable(central) is None


def test_the_page_can_rank_at_any_energy() -> None:
    runs = made({"baseline": (1e-5, 0.1), "quiet": (5e-5, 0.02)})
    told = movable(runs)
    assert told is not None
    assert told["kwh_per_gb"] == pytest.approx(SET)
    assert [method["name"] for method in told["methods"]] == ["quiet", "baseline"]
    for method in told["methods"]:
        alike = runs[runs["opt"] == method["name"]]
        at_low = method["weighted_f1"] / ((method["energy_kwh"] + method["gb"] * 1e-4) * method["kg_per_kwh"])
        assert at_low == pytest.approx(alike["eaps_low_network"].mean(), rel=0.01)
