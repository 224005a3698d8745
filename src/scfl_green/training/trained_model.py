"""TrainedModel: trained weights with everything needed to use them elsewhere."""

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
from scfl_green.data.reading.labels import ONTOLOGY_ID
from scfl_green.data.seen import Seen
from scfl_green.errors import InputError
from scfl_green.files import write_atomically
from scfl_green.models.calibration import Calibration
from scfl_green.models.prune import Weights
from scfl_green.security import targets

WEIGHTS, ABOUT = "weights.safetensors", "model.json"
# Lists under "genes" in model.json, in the order of the network's inputs.
GENE_FIELDS = ("genes", "symbols", "mean", "scale")


@dataclass(frozen=True)
class TrainedModel:
    """Weights with the configuration of their network (``config``), the preparation of its features, its cell types,
    the cells it was trained on (``seen``), the kg CO2e of its training and transfer (None if unknown), and how far it
    may be believed (None without validation cells, and of models of earlier versions).

    ``type_ids`` are the Cell Ontology ids of the types (None where unknown), ``precision`` is that of its test, and
    ``n_genes_read`` the number of genes in the files of training, of which some were chosen (None if unknown)."""

    config: dict[str, Any]
    weights: Weights
    preparation: Preparation
    types: tuple[str, ...]
    seen: Seen
    emissions_kg: float | None = None
    calibration: Calibration | None = None
    type_ids: tuple[str | None, ...] = ()
    precision: str = "32-true"
    n_genes_read: int | None = None

    def save(self, folder: Path) -> None:
        """Write ``weights.safetensors`` and ``model.json``, which holds the SHA-256 of the weights."""
        stored = save(self.weights)
        about = {
            "model": self.config,
            "weights_sha256": hashlib.sha256(stored).hexdigest(),
            "cell_types": list(self.types),
            "cell_type_ids": list(self.type_ids),
            "precision": self.precision,
            "n_genes_read": self.n_genes_read,
            "trained_on": self.seen.to_json(),
            "normalise_to": TARGET_SUM if self.preparation.preprocess else None,
            "clip": CLIP,
            "genes": {field: getattr(self.preparation, field).tolist() for field in GENE_FIELDS},
            "calibration": self.calibration and self.calibration.to_json(),
        }
        write_atomically(folder / WEIGHTS, stored)
        write_atomically(folder / ABOUT, json.dumps(about, indent=1).encode())

    @property
    def sha256(self) -> str:
        """SHA-256 of ``weights.safetensors``."""
        return hashlib.sha256(save(self.weights)).hexdigest()

    @classmethod
    def load(cls, folder: str, trusted: Sequence[str] = ()) -> "TrainedModel":
        """Load the model from the folder of a finished run, which need not be trusted.

        Raises InputError if there is no finished run, if the weights do not match the SHA-256 in ``model.json``, or if
        it names code beyond the allow-list and ``trusted`` (``targets.check``).
        """
        path = Path(folder)
        try:
            stored, about = (path / WEIGHTS).read_bytes(), json.loads((path / ABOUT).read_text())
            _verify(folder, stored, about)
            targets.check(about["model"], trusted, where=f"weights={folder}: {ABOUT}: model")
            preparation, seen = _preparation(about), Seen.from_json(about["trained_on"])
            types, later = tuple(about["cell_types"]), _fields_of_later(about)
            return cls(about["model"], load(stored), preparation, types, seen, _emissions(path), **later)
        except FileNotFoundError as error:
            if has_several(path):
                raise InputError(
                    f"weights={folder}: a run of regime=local, with a model of each site; name one, such as "
                    f"weights={folder}/site-1"
                ) from None
            raise InputError(
                f"weights={folder}: no {Path(error.filename).name} there; name the folder of a finished run, or start "
                "that run: regime=finetune needs the same command without it, `python train.py split.newcomers=1 ...`"
            ) from None
        except InputError:
            raise
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"weights={folder}: damaged files ({type(error).__name__}); repeat that run") from error


def has_several(folder: Path) -> bool:
    """Whether a run has left a model of each site, and none of all."""
    return (folder / "site-1").is_dir()


def _preparation(about: dict[str, Any]) -> Preparation:
    genes = about["genes"]
    return Preparation(
        **{field: np.array(genes[field], dtype=object) for field in GENE_FIELDS[:2]},
        **{field: np.array(genes[field], dtype=np.float32) for field in GENE_FIELDS[2:]},
        preprocess=about["normalise_to"] is not None,
    )


def _fields_of_later(about: dict[str, Any]) -> dict[str, Any]:
    """What models of earlier versions lack; ValueError for what no version writes."""
    calibration, n_types = about.get("calibration"), len(about["cell_types"])
    ids = tuple(about.get("cell_type_ids") or [None] * n_types)
    precision, n_genes_read = about.get("precision", "32-true"), about.get("n_genes_read")
    if len(ids) != n_types or not all(one is None or ONTOLOGY_ID.fullmatch(one) for one in ids):
        raise ValueError("cell_type_ids")
    if not isinstance(precision, str) or not isinstance(n_genes_read, int | None):
        raise ValueError("precision, n_genes_read")
    known = None if calibration is None else Calibration.from_json(calibration, n_types)
    return {"calibration": known, "type_ids": ids, "precision": precision, "n_genes_read": n_genes_read}


def _verify(folder: str, stored: bytes, about: dict[str, Any]) -> None:
    """Check the SHA-256 of the weights before anything parses them."""
    if not isinstance(expected := about.get("weights_sha256"), str):
        raise InputError(f"weights={folder}: {ABOUT} has no weights_sha256 to verify the weights; repeat that run")
    if (found := hashlib.sha256(stored).hexdigest()) != expected:
        raise InputError(
            f"weights={folder}: damaged files (SHA-256 of {WEIGHTS} is {found[:12]}..., {ABOUT} expects "
            f"{expected[:12]}...); copy both again, or repeat that run"
        )


def _emissions(folder: Path) -> float | None:
    try:
        record = json.loads((folder / "result.json").read_text())
        return record["emissions_kg"] + record["transfer_emissions_kg"]
    except (OSError, ValueError, KeyError):
        return None
