"""Growing: gives trained weights outputs for cell types that they do not know."""

import torch

from scfl_green.models.prune import Weights


def grown(weights: Weights, narrow: Weights, wide: Weights) -> Weights:
    """``weights``, whose types are the first of those of ``wide``, with the other outputs of ``wide``.

    ``narrow`` has the shapes of the same network for the types of ``weights``: wherever a tensor of ``wide`` is larger,
    it has a row for each type. Hidden units may have been pruned from ``weights``.
    """
    result = dict(weights)
    for name, value in wide.items():
        for dim, (few, more) in enumerate(zip(narrow[name].shape, value.shape, strict=True)):
            if few != more:
                new = value.narrow(dim, few, more - few)
                for other, size in enumerate(result[name].shape):
                    new = new if other == dim else new.narrow(other, 0, size)
                result[name] = torch.cat([result[name], new], dim=dim)
    return result
