"""What of a run leaves when its model is shared: its files, and the fields in them, by an allow-list."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save

from scfl_green.errors import InputError, listed
from scfl_green.files import write_atomically
from scfl_green.share.card import Terms, card, metadata
from scfl_green.share.provenance import provenance
from scfl_green.share.seen import salted
from scfl_green.training.trained_model import ABOUT, FORMAT, WEIGHTS, TrainedModel

CALIBRATION = "calibration"
CARD, RECORD, SUMS = "README.md", "result.json", "SHA256SUMS"
FILES = (CARD, ABOUT, RECORD, WEIGHTS, SUMS)
# Fields of model.json that may leave: all that using the weights takes. ``trained_on`` names clients, files and cells,
# and leaves as salted hashes of the files alone.
FIELDS = (
    "format", "model", "weights_sha256", "cell_types", "cell_type_ids", "precision", "n_genes_read", "normalise_to",
    "clip", "genes", "calibration",
)  # fmt: skip
HIDDEN = "trained_on"
# Sums over fewer cells than these would tell much of each; the usual threshold of statistical disclosure control.
FEWEST_CELLS = 10


@dataclass(frozen=True)
class Release:
    """What was written: the metadata of the card, and the names of fields that stay with the run."""

    metadata: dict[str, Any]
    kept: list[str]


def release(run: Path, folder: Path, name: str, terms: Terms, trusted: Sequence[str] = ()) -> Release:
    """Write a run's model as ``FILES`` into ``folder``.

    Raises InputError if the run is not finished, is damaged, or has a text in its model's settings: only numbers,
    switches and the names of classes are known not to tell of data or people (``Terms.allowed`` has exceptions).
    """
    record, kept = provenance(run)
    model = TrainedModel.load(str(run), trusted)
    about = json.loads((run / ABOUT).read_text())
    _check_settings(about["model"], terms.allowed)
    public = {field: about[field] for field in FIELDS if field in about}
    if (why := _untold(about.get(CALIBRATION), record)) and CALIBRATION not in terms.allowed:
        public[CALIBRATION] = None
        kept = [f"{ABOUT}: {CALIBRATION} ({why}; --allow {CALIBRATION} shares it)", *kept]
    weights = save(model.weights)
    public |= {
        "format": FORMAT,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        HIDDEN: {"salted_sha256": salted(run, model.seen.files)},
    }
    of_card = metadata(name, public, record, terms)
    files = {
        CARD: card(name, of_card, public, record).encode(),
        ABOUT: json.dumps(public, indent=1, allow_nan=False).encode(),
        RECORD: json.dumps(record, indent=1, allow_nan=False).encode(),
        WEIGHTS: weights,
    }
    for file, content in (files | {SUMS: _sums(files)}).items():
        write_atomically(folder / file, content)
    return Release(of_card, [f"{ABOUT}: {field}" for field in about if field not in FIELDS] + kept)


def _untold(calibration: dict[str, Any] | None, record: dict[str, Any]) -> str:
    """Why a calibration stays; empty if it may leave."""
    if calibration is None:
        return ""
    if record.get("epsilon") is not None:
        return "computed without the noise of differential privacy"
    cells = calibration["profiles"]["n"]
    few = [n for n in cells if 0 < n < FEWEST_CELLS]
    return f"sums over the training cells of a type of which there are only {min(few)}" if few else ""


def _sums(files: dict[str, bytes]) -> bytes:
    """In the format of ``sha256sum``."""
    return "".join(f"{hashlib.sha256(content).hexdigest()}  {file}\n" for file, content in files.items()).encode()


def _check_settings(config: Any, allowed: Sequence[str]) -> None:
    if found := sorted(key for key in _texts(config, "model") if key not in allowed):
        raise InputError(
            f"{listed(found)}: a text in the model's settings, which may tell of data or people, so that it is not "
            f"shared unless you say so: --allow {found[0]}"
        )


def _texts(config: Any, path: str) -> Iterator[str]:
    """The keys of all texts, except for names of classes."""
    if isinstance(config, str) and not path.endswith("._target_"):
        yield path
    elif isinstance(config, dict | list):
        for key, value in config.items() if isinstance(config, dict) else enumerate(config):
            yield from _texts(value, f"{path}.{key}")
