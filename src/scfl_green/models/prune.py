"""Structured pruning: removes whole hidden units, with every row and column that belongs to them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Slice:
    """Where the units of one hidden layer lie in a tensor: along ``dim``, in ``blocks`` repeats (an LSTM's gates)."""

    name: str
    dim: int
    blocks: int = 1


# All slices of one hidden layer's units; a unit is removed from all of them or from none.
Units = Sequence[Slice]


def pruned(weights: Weights, layers: Sequence[Units], fraction: float) -> Weights:
    """The weights without the ``fraction`` of units of every hidden layer whose norm is smallest.

    A unit's norm is that of all weights that lead to and from it (magnitude pruning of whole structures: Li et al.
    2017, ICLR, "Pruning filters for efficient ConvNets"). Units are chosen in all layers before any is cut.
    """
    kept = [(units, _kept(weights, units, fraction)) for units in layers]
    result = dict(weights)
    for units, index in kept:
        for part in units:
            tensor = result[part.name]
            size = tensor.shape[part.dim] // part.blocks
            whole = torch.cat([index + block * size for block in range(part.blocks)])
            result[part.name] = tensor.index_select(part.dim, whole)
    return result


def _kept(weights: Weights, units: Units, fraction: float) -> Tensor:
    norm = torch.stack([_squares(weights[part.name], part) for part in units]).sum(dim=0)
    n_kept = max(1, round(len(norm) * (1 - fraction)))
    return norm.argsort(descending=True, stable=True)[:n_kept].sort().values


def _squares(tensor: Tensor, part: Slice) -> Tensor:
    by_unit = tensor.double().square().movedim(part.dim, 0).reshape(tensor.shape[part.dim], -1).sum(dim=1)
    return by_unit.view(part.blocks, -1).sum(dim=0)


def resize(model: nn.Module, weights: Weights) -> None:
    """Give a model the shapes of ``weights``, which may have been pruned."""
    for name, value in weights.items():
        path, _, leaf = name.rpartition(".")
        owner = model.get_submodule(path)
        if getattr(owner, leaf).shape != value.shape:
            setattr(owner, leaf, nn.Parameter(torch.empty_like(value)))
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = layer.weight.shape
        elif isinstance(layer, nn.LayerNorm):
            layer.normalized_shape = tuple(layer.weight.shape)
        elif isinstance(layer, nn.LSTM):
            layer.input_size = layer.get_parameter("weight_ih_l0").shape[1]
            layer.hidden_size = layer.get_parameter("weight_hh_l0").shape[1]


def between(producers: Sequence[str], consumers: Sequence[str]) -> Units:
    """The units between linear layers: ``producers`` compute or normalise them, ``consumers`` read them."""
    made = [Slice(f"{name}.{kind}", 0) for name in producers for kind in ("weight", "bias")]
    return [*made, *(Slice(f"{name}.weight", 1) for name in consumers)]
