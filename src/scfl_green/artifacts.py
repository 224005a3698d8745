"""What a run leaves for others to use: weights, and all that is needed to use them elsewhere."""

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load, save

from scfl_green.data.datamodule import CLIP
from scfl_green.data.prepare import TARGET_SUM, Preparation
from scfl_green.errors import InputError
from scfl_green.job import Weights


def write_atomically(path: Path, content: bytes) -> None:
    """The file appears whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)


def write_model(
    folder: Path, weights: Weights, preparation: Preparation, types: tuple[str, ...], model: dict[str, Any]
) -> None:
    """``weights.safetensors``, and ``model.json`` with all that is needed to use them elsewhere."""
    about = {
        "model": model,
        "cell_types": list(types),
        "normalise_to": TARGET_SUM,
        "clip": CLIP,
        "genes": [
            {"id": str(gene), "symbol": str(symbol), "mean": float(mean), "scale": float(scale)}
            for gene, symbol, mean, scale in zip(
                preparation.genes, preparation.symbols, preparation.mean, preparation.scale, strict=True
            )
        ],
    }
    write_atomically(folder / "weights.safetensors", save(weights))
    write_atomically(folder / "model.json", json.dumps(about, indent=1).encode())


@dataclass(frozen=True)
class Start:
    """What an earlier run left: weights, and the preparation and cell types that they belong to."""

    weights: Weights
    preparation: Preparation
    types: tuple[str, ...]
    sha256: str


def read_model(folder: str) -> Start:
    """What the run in a folder left. Raises InputError where there is no finished run."""
    path = Path(folder)
    try:
        stored = (path / "weights.safetensors").read_bytes()
        about = json.loads((path / "model.json").read_text())
    except FileNotFoundError as error:
        raise InputError(
            f"weights={folder}: no {Path(error.filename).name} there; name the folder of a finished run, "
            "or make one: regime=finetune starts from the run of `python train.py split.newcomers=1`"
        ) from None
    genes = about["genes"]
    preparation = Preparation(
        genes=np.array([gene["id"] for gene in genes], dtype=object),
        symbols=np.array([gene["symbol"] for gene in genes], dtype=object),
        mean=np.array([gene["mean"] for gene in genes], dtype=np.float32),
        scale=np.array([gene["scale"] for gene in genes], dtype=np.float32),
    )
    return Start(load(stored), preparation, tuple(about["cell_types"]), hashlib.sha256(stored).hexdigest())
