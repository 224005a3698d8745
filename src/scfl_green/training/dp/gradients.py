"""Per-cell gradients by Opacus, and the check that a framework has them."""

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
    """Let backward passes store per-cell gradients in each parameter's ``grad_sample`` (cells x its shape)."""
    with _recurrent(model), warnings.catch_warnings():
        # Harmless: the inputs need no gradient, and the first layer's weights still get theirs.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        hooks = GradSampleHooks(model)
        try:
            yield
        finally:
            hooks.cleanup()
            # Opacus would take what an interrupted pass has left for a part of the next.
            for module in model.modules():
                vars(module).pop("activations", None)
            for parameter in model.parameters():
                vars(parameter).pop("summed_grad", None)


@contextmanager
def _recurrent(model: CellClassifier) -> Iterator[None]:
    """Replace LSTMs by Opacus' own, which can be hooked; afterwards restore them, with the learnt weights."""
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
    """Raises InputError for a framework without per-cell gradients, where clipping bounds nothing.

    No term of its loss may be among ``between_cells``. On a trial batch, a cell's gradient must be the same alone and
    among others, and the mean of the cells' gradients must equal the batch's gradient.
    """
    name = type(model).__name__
    with _recurrent(model):
        errors = [*ModuleValidator.validate(model), *GradSampleHooks.validate(model)]
    if errors:
        raise InputError(f"privacy=dp_sgd does not support a layer of {name}: {str(errors[0]).split('. ')[0]}")
    if bare := [key for key, _ in model.named_parameters(recurse=False)]:
        raise InputError(f"privacy=dp_sgd: parameters of {name} in no layer have no per-cell gradient: {bare}")
    terms, used = list(model.loss(x, y)[1]), set[str]()
    found = {term: _one_by_one(model, x, y, term, used) for term in terms}
    if mixed := [term for term, holds in found.items() if term in model.between_cells or not holds]:
        raise InputError(
            f"privacy=dp_sgd cannot train {name}: its terms {', '.join(mixed)} compare the cells of a batch (or use "
            "weights outside their layers): no cell has its own gradient to clip, and an epsilon would be false; set "
            "the weights of these terms to 0 or choose another model"
        )
    if idle := [key for key, _ in model.named_parameters() if key not in used]:
        raise InputError(f"privacy=dp_sgd: no term of the loss of {name} uses {listed(idle)}")


def _one_by_one(model: CellClassifier, x: Tensor, y: Tensor, term: str, used: set[str]) -> bool:
    among, alone = _gradients(model, x, y, term), _gradients(model, x[:1], y[:1], term)
    used |= {key for key, (_, whole) in among.items() if whole is not None}
    return all(
        _close(cells[0], alone[key][0][0]) and _close(cells.mean(dim=0), whole)
        for key, (cells, whole) in among.items()
        if whole is not None
    )


def _gradients(model: CellClassifier, x: Tensor, y: Tensor, term: str) -> dict[str, tuple[Tensor, Tensor | None]]:
    """The per-cell gradients and the batch's gradient of each parameter, without dropout."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    with gradients_by_cell(model):
        model.loss(x, y)[1][term].backward()
        found = {key: (p.grad_sample, p.grad) for key, p in model.named_parameters()}  # type: ignore[attr-defined]
        model.zero_grad()
    model.train()
    none = torch.zeros(1)
    return {key: (none if cells is None else cells, whole) for key, (cells, whole) in found.items()}


def _close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).norm() <= 1e-3 * other.norm() + 1e-6)
