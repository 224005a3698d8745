"""Gradients of single cells, by Opacus: made, and refused where there are none."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from opacus.grad_sample import GradSampleHooks
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from scfl_green.errors import InputError, listed
from scfl_green.models.base import CellClassifier


@contextmanager
def gradients_by_cell(model: CellClassifier) -> Iterator[None]:
    """Backward passes inside leave ``grad_sample`` (cells x the parameter's shape) at every parameter."""
    with _recurrent(model), warnings.catch_warnings():
        # Cells need no gradient, and the first layer's weights get theirs all the same.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        hooks = GradSampleHooks(model)
        try:
            yield
        finally:
            hooks.cleanup()
            # What Opacus leaves of a pass that was broken off would be taken for the next one's.
            for module in model.modules():
                vars(module).pop("activations", None)
            for parameter in model.parameters():
                vars(parameter).pop("summed_grad", None)


@contextmanager
def _recurrent(model: CellClassifier) -> Iterator[None]:
    """LSTMs in a form whose steps can be hooked; as they were, with the weights learnt, afterwards."""
    plain = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.LSTM)}
    for name, layer in plain.items():
        model.set_submodule(name, ModuleValidator.fix(layer))
    try:
        yield
    finally:
        for name, layer in plain.items():
            layer.load_state_dict(model.get_submodule(name).state_dict())
            model.set_submodule(name, layer)


def check_gradients(model: CellClassifier, x: Tensor, y: Tensor) -> None:
    """Raises InputError for a framework that has no gradient of one cell, so that nothing bounds what a cell adds.

    No term of its loss may be among ``between_cells``; and, tried on a batch, a cell's gradient must be the same alone
    and among others, and the mean of the cells' gradients that of the batch.
    """
    name = type(model).__name__
    with _recurrent(model):
        errors = [*ModuleValidator.validate(model), *GradSampleHooks.validate(model)]
    if errors:
        raise InputError(f"privacy=dp_sgd cannot treat a layer of {name}: {str(errors[0]).split('. ')[0]}")
    if own := [of for of, _ in model.named_parameters(recurse=False)]:
        raise InputError(f"privacy=dp_sgd: parameters of {name} that are in no layer have no gradient by cell: {own}")
    terms, used = list(model.loss(x, y)[1]), set[str]()
    found = {term: _one_by_one(model, x, y, term, used) for term in terms}
    if mixed := [term for term, holds in found.items() if term in model.between_cells or not holds]:
        raise InputError(
            f"privacy=dp_sgd cannot train {name}: its terms {', '.join(mixed)} compare the cells of a batch (or reach "
            "weights past their layers), so that no cell has a gradient of its own to clip, and an epsilon would be "
            "false; set their weights to 0 or choose another model"
        )
    if idle := [of for of, _ in model.named_parameters() if of not in used]:
        raise InputError(f"privacy=dp_sgd: no term of the loss of {name} uses {listed(idle)}")


def _one_by_one(model: CellClassifier, x: Tensor, y: Tensor, term: str, used: set[str]) -> bool:
    among, alone = _gradients(model, x, y, term), _gradients(model, x[:1], y[:1], term)
    used |= {of for of, (_, whole) in among.items() if whole is not None}
    return all(
        _close(cells[0], alone[of][0][0]) and _close(cells.mean(dim=0), whole)
        for of, (cells, whole) in among.items()
        if whole is not None
    )


def _gradients(model: CellClassifier, x: Tensor, y: Tensor, term: str) -> dict[str, tuple[Tensor, Tensor | None]]:
    """Of each parameter, its gradients by cell and that of the batch, where dropout is off."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    with gradients_by_cell(model):
        model.loss(x, y)[1][term].backward()
        found = {of: (p.grad_sample, p.grad) for of, p in model.named_parameters()}  # type: ignore[attr-defined]
        model.zero_grad()
    model.train()
    none = torch.zeros(1)
    return {of: (none if cells is None else cells, whole) for of, (cells, whole) in found.items()}


def _close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).norm() <= 1e-3 * other.norm() + 1e-6)
