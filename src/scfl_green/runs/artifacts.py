"""What a run leaves for others to use: weights, and all that is needed to use them elsewhere."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load, save

from scfl_green.data.features.prepare import CLIP, Preparation
from scfl_green.data.features.sums import TARGET_SUM
from scfl_green.data.seen import Seen
from scfl_green.errors import InputError
from scfl_green.files import write_atomically
from scfl_green.security import targets
from scfl_green.training.job import Weights


def write_model(
    folder: Path, weights: Weights, preparation: Preparation, types: tuple[str, ...], model: dict[str, Any], seen: Seen
) -> None:
    """``weights.safetensors``, and ``model.json`` with all that is needed to use them elsewhere and the cells that they
    have seen, in this run or before; the SHA-256 ties the two files to each other."""
    stored = save(weights)
    about = {
        "model": model,
        "weights_sha256": hashlib.sha256(stored).hexdigest(),
        "cell_types": list(types),
        "trained_on": seen.to_json(),
        "normalise_to": TARGET_SUM if preparation.preprocess else None,
        "clip": CLIP,
        "genes": {field: getattr(preparation, field).tolist() for field in GENE_FIELDS},
    }
    write_atomically(folder / "weights.safetensors", stored)
    write_atomically(folder / "model.json", json.dumps(about, indent=1).encode())


# Of model.json's genes, a list each, in the order of the network's inputs.
GENE_FIELDS = ("genes", "symbols", "mean", "scale")


@dataclass(frozen=True)
class Start:
    """What an earlier run left: weights, the preparation and cell types that they belong to, what they have
    been trained on, and what training them emitted, transfer included (None where that is not known)."""

    weights: Weights
    preparation: Preparation
    types: tuple[str, ...]
    seen: Seen
    sha256: str
    emissions_kg: float | None


def read_model(folder: str, trusted: Sequence[str] = ()) -> Start:
    """What the run in a folder left. Raises InputError where there is no finished run, where the weights are not those
    that ``model.json`` tells of, and where it names a model that no configuration may (``targets.check``)."""
    path = Path(folder)
    try:
        stored = (path / "weights.safetensors").read_bytes()
        about = json.loads((path / "model.json").read_text())
        sha256 = _verified(folder, stored, about)
        targets.check(about["model"], trusted, where=f"weights={folder}: model.json: model")
        weights, genes = load(stored), about["genes"]
        preparation = Preparation(
            **{field: np.array(genes[field], dtype=object) for field in GENE_FIELDS[:2]},
            **{field: np.array(genes[field], dtype=np.float32) for field in GENE_FIELDS[2:]},
            preprocess=about["normalise_to"] is not None,
        )
        seen = Seen.from_json(about["trained_on"])
    except FileNotFoundError as error:
        raise InputError(
            f"weights={folder}: no {Path(error.filename).name} there; name the folder of a finished run, "
            "or make one: regime=finetune starts from the run of the same command without it, `python train.py "
            "split.newcomers=1 ...`"
        ) from None
    except InputError:
        raise
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"weights={folder}: damaged files ({type(error).__name__}); run it again") from error
    return Start(weights, preparation, tuple(about["cell_types"]), seen, sha256, _emitted(path / "result.json"))


def _verified(folder: str, stored: bytes, about: dict[str, Any]) -> str:
    """The SHA-256 of the weights, before anything reads them."""
    if not isinstance(expected := about.get("weights_sha256"), str):
        raise InputError(f"weights={folder}: model.json has no weights_sha256 to check the weights by; run it again")
    if (found := hashlib.sha256(stored).hexdigest()) != expected:
        raise InputError(
            f"weights={folder}: damaged files (SHA-256 of weights.safetensors is {found[:12]}..., of those that "
            f"model.json was written for {expected[:12]}...); copy both again, or run it again"
        )
    return found


def _emitted(record: Path) -> float | None:
    try:
        fields = json.loads(record.read_text())
        return fields["emissions_kg"] + fields["transfer_emissions_kg"]
    except (OSError, ValueError, KeyError):
        return None
