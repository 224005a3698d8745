"""Labels that stand for several cell types: a site's "T cell" where another tells CD4 from CD8."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from scfl_green.models.scores import UNLABELLED

# The types that a label -2 may stand for, and -3, ...
Broad = Sequence[Sequence[int]]


def cross_entropy(logits: Tensor, labels: Tensor, broad: Broad = ()) -> Tensor:
    """The mean cross-entropy of the cells with a label; zero, not NaN, if none has.

    The probability of a label that stands for several types is the sum of theirs, as in hierarchical classification
    (Deng et al. 2014, ECCV, "Large-Scale Object Classification Using Label Relation Graphs", section 2).
    """
    if not broad:
        known = labels != UNLABELLED
        return F.cross_entropy(logits[known], labels[known], reduction="sum") / known.sum().clamp_min(1)
    of_label = torch.cat([logits.log_softmax(dim=1), *(_any_of(logits, list(types)) for types in broad)], dim=1)
    places = torch.where(labels < UNLABELLED, logits.shape[1] - 2 - labels, labels)
    losses = F.nll_loss(of_label, places, ignore_index=UNLABELLED, reduction="sum")
    return losses / (labels != UNLABELLED).sum().clamp_min(1)


def _any_of(logits: Tensor, types: list[int]) -> Tensor:
    """The log-probability of any of the types (cells x 1), whose logits its gradient raises alike.

    The sum's own gradient raises most what is already ahead: a site that cannot tell the types apart would move all its
    cells to one of them, and with FedAvg those of other sites.
    """
    own = logits[:, types]
    level = own.mean(dim=1, keepdim=True)
    alike = logits.index_copy(1, torch.tensor(types, device=logits.device), level + (own - level).detach())
    return alike.log_softmax(dim=1)[:, types].logsumexp(dim=1, keepdim=True)
