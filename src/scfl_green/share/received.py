"""Checks of a shared model that was received, before it is used: it need not be trusted."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from hydra.utils import instantiate

from scfl_green.errors import InputError, listed
from scfl_green.models.prune import resize
from scfl_green.share.release import CARD, FILES, RECORD, SUMS
from scfl_green.training.trained_model import ABOUT, WEIGHTS, TrainedModel

# Bytes; a network of these kinds has some MB, and a list of genes one.
LARGEST = {CARD: 1 << 20, RECORD: 1 << 20, SUMS: 1 << 12, ABOUT: 1 << 26, WEIGHTS: 1 << 32}
LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def check_sizes(address: object, sizes: Mapping[str, int]) -> None:
    """InputError unless a registry has all ``FILES`` of a model, none of them too large; before any is fetched."""
    if missing := [file for file in FILES if file not in sizes]:
        raise InputError(f"{address}: no {listed(missing)} there; it is not a model that scfl-green has pushed whole")
    for file, largest in LARGEST.items():
        if sizes[file] > largest:
            raise InputError(f"{address}: {file} has {sizes[file]} bytes, at most {largest} are expected; refused")


def sizes_in(folder: Path) -> dict[str, int]:
    """Bytes of the files of a folder; links, which may lead anywhere, are none."""
    return {path.name: path.lstat().st_size for path in folder.iterdir() if path.is_file() and not path.is_symlink()}


def check(folder: Path, address: object, trusted: Sequence[str] = ()) -> TrainedModel:
    """The model in a folder of ``FILES``.

    Raises InputError if one is missing, too large, or differs from its SHA-256; if ``model.json`` is of a newer format
    or names code beyond the allow-list and ``trusted``; or if the weights do not fit its network, genes and types.
    """
    check_sizes(address, sizes_in(folder))
    found = (LINE.fullmatch(line) for line in (folder / SUMS).read_text(errors="replace").splitlines())
    sums = {line[2]: line[1] for line in found if line}
    for file in FILES:
        if file != SUMS and hashlib.sha256((folder / file).read_bytes()).hexdigest() != sums.get(file):
            raise InputError(
                f"{address}: the SHA-256 of {file} is not the one in {SUMS}; pull it again, or do not use it"
            )
    try:
        model = TrainedModel.load(str(folder), trusted)
        _check_shape(model)
        return model
    except InputError as error:
        reason = str(error).removeprefix(f"weights={folder}: ").replace("; repeat that run", "; refused")
        raise InputError(f"{address}: {reason}") from None


def _check_shape(model: TrainedModel) -> None:
    """Run the network without memory or arithmetic, on torch's device ``meta``."""
    n_genes, n_types = len(model.preparation.genes), len(model.types)
    lengths = {len(getattr(model.preparation, field)) for field in ("genes", "symbols", "mean", "scale")}
    if lengths != {n_genes} or len(set(model.types)) != n_types:
        raise InputError(f"{ABOUT}: genes or cell types that do not fit each other; refused")
    try:
        with torch.device("meta"), torch.inference_mode():
            network = instantiate(model.config, n_genes=n_genes, n_types=n_types, _convert_="all")
            weights = {name: value.to("meta") for name, value in model.weights.items()}
            resize(network, weights)
            network.load_state_dict(weights, assign=True)
            found = tuple(network.eval()(torch.empty(1, n_genes)).shape)
    except Exception as error:  # a hostile configuration may raise anything
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"{WEIGHTS} does not fit its network, {n_genes} genes and {n_types} types ({reason})"
        ) from None
    if found != (1, n_types):
        raise InputError(f"{WEIGHTS} gives {found[-1]} outputs, {ABOUT} names {n_types} cell types; refused")
