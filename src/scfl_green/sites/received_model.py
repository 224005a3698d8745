"""The model that a federation ends with, as each site keeps it."""

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors.torch import save

from scfl_green.data.wire import Arrays, Packed, packed_text, unpacked_text
from scfl_green.federated.site import DisagreementError
from scfl_green.files import write_atomically
from scfl_green.models.prune import Weights
from scfl_green.security import targets
from scfl_green.training.trained_model import ABOUT, WEIGHTS

FOLDER = "models"


def question(folder: Path) -> Packed:
    """What a site gets of the model in a run's folder, beside its weights; not who else has trained it."""
    return {"about": packed_text(json.loads((folder / ABOUT).read_text()) | {"trained_on": {}})}


def keep(folder: Path, asked: Arrays, weights: Weights | None) -> Arrays:
    """Keep a model in a site's folder, by the hash of its weights. Raises DisagreementError if these are others than it
    tells, InputError if it names code beyond the allow-list."""
    about = unpacked_text(asked["about"])
    stored = save(weights or {})
    sha256 = hashlib.sha256(stored).hexdigest()
    if about["weights_sha256"] != sha256:
        raise DisagreementError("a model whose weights have another hash than it tells")
    targets.check(about["model"], where=f"{ABOUT}: model")
    place = folder / FOLDER / sha256[:12]
    place.mkdir(parents=True, exist_ok=True)
    write_atomically(place / WEIGHTS, stored)
    write_atomically(place / ABOUT, json.dumps(about, indent=1).encode())
    return {"kept": np.array([1])}
