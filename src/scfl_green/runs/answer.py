"""What fine-tuning at a newcomer was worth, in one sentence."""

from typing import Any


def answer(site: str, record: dict[str, Any]) -> str:
    """What the untouched model, fine-tuning and training from scratch score at ``site`` and cost, and what is kept."""
    tuned, scratch = (
        (_grams(record[f"{arm}emissions_kg"]), _epochs(record[f"{arm}epochs"])) for arm in ("", "scratch_")
    )
    return (
        f"{site}, {record['cells_test']:,} test cells: the untouched model scores F1 "
        f"{record['untouched_weighted_f1']:.3f}, fine-tuning {record['weighted_f1']:.3f} ({tuned[1]}, {tuned[0]}), "
        f"training from scratch {record['scratch_weighted_f1']:.3f} ({scratch[1]}, {scratch[0]}); {_costs(record)}; "
        f"{_kept(record)}."
    )


def _costs(record: dict[str, Any]) -> str:
    if (target := record["target_validation_f1"]) is None:
        return "without validation cells, nothing tells what the same F1 costs"
    tuned_kg, scratch_kg = (record[f"{arm}_emissions_kg_to_target"] for arm in ("tuned", "scratch"))
    saved = ""
    if tuned_kg is not None and scratch_kg is not None:
        saved = f", which saves {_grams(scratch_kg - tuned_kg)}" if scratch_kg > tuned_kg else ", which saves nothing"
    costs = f"took {_cost(record, 'tuned')}, {_cost(record, 'scratch')}"
    return f"F1 {target:.3f} on validation cells {costs}{saved}"


def _cost(record: dict[str, Any], arm: str) -> str:
    name = {"tuned": "fine-tuning", "scratch": "training from scratch"}[arm]
    epoch, kg = record[f"{arm}_epoch_to_target"], record[f"{arm}_emissions_kg_to_target"]
    if epoch is None:
        return f"{name} more than its epochs"
    return f"{name} {_epochs(epoch)} and {_grams(kg)}" if epoch else f"no {name} at all"


def _kept(record: dict[str, Any]) -> str:
    of_kept, untouched = record["kept_validation_f1"], record["untouched_validation_f1"]
    if record["kept_epoch"] == 0:
        return "kept is the untouched model, since no epoch scored better on validation cells"
    if record["kept_epoch"] is None:
        return "kept are the weights that a callback has made"
    kept = f"kept are the weights of epoch {record['kept_epoch']}"
    if of_kept is None or untouched < of_kept:
        return kept
    return (
        f"{kept}, although the untouched model scores at least as well on validation cells ({untouched:.3f}, "
        f"{of_kept:.3f}): finetuning.patience keeps what is best there"
    )


def _epochs(number: int) -> str:
    return f"{number} epoch" + ("s" if number != 1 else "")


def _grams(kg: float) -> str:
    return f"{kg * 1e3:.3g} g CO2e" if kg >= 1e-4 else f"{kg * 1e6:.3g} mg CO2e"
