"""How a shared model was trained and how it scores, from the files of its run, without names of sites or data."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import yaml  # type: ignore[import-untyped]

from scfl_green.errors import InputError
from scfl_green.security.confidential import VERSION_KEYS

# Fields of the run's record that may leave: numbers, and words of this program. The names of data and of their clients,
# the processor and the load of the machine stay.
FIELDS = (
    "seed", "cells_train", "cells_test", "genes", "types", "clients", "rounds", "local_epochs", "epochs", "batch_size",
    "precision", "parameters", "accuracy", "weighted_f1", "macro_f1", "calibration_error", "calibration_error_scaled",
    "temperature", "cells_calibration", "seconds_fit", "energy_kwh", "energy_cpu_kwh", "energy_gpu_kwh",
    "energy_ram_kwh", "emissions_kg", "energy_mode", "country", "carbon_intensity_kg_per_kwh", "bytes_up", "bytes_down",
    "bytes_prepare", "bytes_spared", "bytes_calibrate", "pue", "waited_hours", "transfer_kwh", "transfer_emissions_kg",
    "emissions_g_per_model", "emissions_g_per_1000_cells", "train_flops", "too_short", "cells_seen",
    "eaps", "epsilon", "delta", "pretraining_emissions_kg", "versions",
    "device", "threads",
)  # fmt: skip
SITE_FIELDS = ("cells_test", "accuracy", "weighted_f1", "macro_f1")
MEMBERSHIP = {"auc": "membership_auc", "auc_low": "membership_auc_low", "auc_high": "membership_auc_high"}
# A regime of the user's own may have any name.
REGIMES = ("central", "federated", "finetune", "local")
STRATEGIES = "flwr.serverapp.strategy."


def provenance(run: Path) -> tuple[dict[str, Any], list[str]]:
    """The public record of a run's folder, and the fields of ``result.json`` that stay behind.

    ``FIELDS``; the strategy; the energy that transferring a gigabyte took; ``sites``: scores by site, numbered in the
    order of ``sites.csv``; ``by_type``: F1 and test cells by cell type; the AUC of membership inference, if ``leakage``
    was run. InputError if the run is not finished.
    """
    record = _read(run)
    kept = [name for name in record if name not in FIELDS]
    public = {name: record[name] for name in FIELDS if name in record}
    public["versions"] = {name: record["versions"][name] for name in VERSION_KEYS if name in record["versions"]}
    public["regime"] = record["regime"] if record["regime"] in REGIMES else None
    bytes_moved = record["bytes_up"] + record["bytes_down"]
    if bytes_moved:
        public |= {"strategy": _strategy(run), "network_kwh_per_gb": record["transfer_kwh"] / bytes_moved * 1e9}
    return public | {"sites": _sites(run), "by_type": _by_type(run), **_membership(run)}, kept


def _read(run: Path) -> dict[str, Any]:
    path = run / "result.json"
    try:
        record = json.loads(path.read_text())
        assert {"versions", "regime", "bytes_up", "bytes_down", "transfer_kwh"} <= record.keys()
        return record
    except FileNotFoundError:
        raise InputError(
            f"{run}: no result.json there; name the folder of a finished run, such as logs/runs/NAME"
        ) from None
    except (ValueError, AssertionError, AttributeError):
        raise InputError(f"{path}: damaged, or of an earlier version; repeat the run") from None


def _strategy(run: Path) -> str | None:
    """The name of the strategy, if it is one of Flower's; another could be anyone's."""
    path = run / ".hydra/config.yaml"
    if not path.is_file():
        return None
    federation = yaml.safe_load(path.read_text()).get("federation") or {}
    target = str((federation.get("strategy") or {}).get("_target_"))
    return target.removeprefix(STRATEGIES) if target.startswith(STRATEGIES) else None


def _sites(run: Path) -> list[dict[str, Any]]:
    if not (path := run / "sites.csv").is_file():
        return []
    rows = pd.read_csv(path)
    scores = rows[[name for name in SITE_FIELDS if name in rows]].astype(object).where(rows.notna(), None)
    return [{"site": number, **dict(row)} for number, (_, row) in enumerate(scores.iterrows(), start=1)]


def _by_type(run: Path) -> list[dict[str, Any]]:
    """F1 by cell type, None for a type that is neither in the test cells nor predicted."""
    if not (path := run / "confusion.csv").is_file():
        return []
    cells = pd.read_csv(path, index_col=0)
    true, found = cells.sum(axis=1).to_numpy(), cells.sum(axis=0).to_numpy()
    rows = zip(cells.columns, cells.to_numpy().diagonal(), true, true + found, strict=True)
    return [
        {"cell_type": name, "cells_test": int(n), "f1": float(2 * right / both) if both else None}
        for name, right, n, both in rows
    ]


def _membership(run: Path) -> dict[str, float]:
    """The row of all sites together, the last of ``privacy.csv``."""
    if not (path := run / "privacy.csv").is_file():
        return {}
    together = pd.read_csv(path).iloc[-1]
    return {public: float(together[name]) for name, public in MEMBERSHIP.items()}
