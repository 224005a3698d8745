"""A network that learns further types keeps what it knows."""

from functools import partial
from typing import Any

import pytest
import torch

from jobs import ADAM
from scfl_green.models import ACTINN, Linear, ScCDCG, ScDLC, ScSMD, ScSMDPaper
from scfl_green.models.base import CellClassifier
from scfl_green.models.grow import grown
from scfl_green.models.prune import pruned, resize

GENES, KNOWN, NEW = 40, 5, 3
FRAMEWORKS: dict[str, tuple[type[CellClassifier], dict[str, Any]]] = {
    "actinn": (ACTINN, {"hidden": (16, 12, KNOWN)}),  # a hidden layer as wide as the types are many
    "linear": (Linear, {}),
    "scdlc": (ScDLC, {"hidden": 8}),
    "sccdcg": (ScCDCG, {"hidden": (16, 8)}),
    "sccdcg, no decoder": (ScCDCG, {"hidden": (16, 8), "reconstruction": 0.0}),
    "sccdcg, centres": (ScCDCG, {"hidden": (16, 8), "clustering": 0.1}),
    "scsmd": (ScSMD, {"hidden": 32, "latent": 8}),
    "scsmd, cellnet": (ScSMD, {"hidden": 32, "latent": 8, "cellnet": True, "attention_gate": True}),
    "scsmd, paper": (ScSMDPaper, {"width": 0.1}),
}
HEADS = {"layers.6", "classifier", "classifier.1", "classifier.2", "centres", "cellnet.6"}


@pytest.mark.parametrize("fraction", [0.0, 0.5], ids=["whole", "pruned"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_grown_network_keeps_its_weights_to_the_bit_and_its_logits(framework: str, fraction: float) -> None:
    made, sizes = FRAMEWORKS[framework]
    make = partial(made, n_genes=GENES, optimizer=ADAM, **sizes)
    torch.manual_seed(1)
    known, wide = make(n_types=KNOWN), make(n_types=KNOWN + NEW)
    weights = pruned(known.state_dict(), known.hidden_units(), fraction)
    with torch.device("meta"):
        narrow = make(n_types=KNOWN).state_dict()
    untrained = {name: value.clone() for name, value in wide.state_dict().items()}
    larger = grown(weights, narrow, untrained)
    models = [(known, weights), (wide, larger)]
    for model, of_model in models:
        resize(model, of_model)
        model.load_state_dict(of_model)
        model.eval()
    x = torch.randn(33, GENES)
    with torch.inference_mode():
        before, after = (model(x) for model, _ in models)
    assert after.shape == (33, KNOWN + NEW)
    # Not to the bit: of a wider product, BLAS may add up in another order.
    torch.testing.assert_close(after[:, :KNOWN], before, rtol=0, atol=1e-6)
    changed = {name for name in weights if weights[name].shape != larger[name].shape}
    assert {name.removesuffix(".weight").removesuffix(".bias") for name in changed} <= HEADS
    assert changed
    for name in changed:
        kept = larger[name].shape[1:]
        new = untrained[name][KNOWN:]
        assert torch.equal(larger[name][:KNOWN], weights[name])
        assert torch.equal(larger[name][KNOWN:], new[:, : kept[0]] if kept else new)
    # It learns, with every term of its loss.
    _, terms = wide.train().loss(x, torch.randint(0, KNOWN + NEW, (33,)))
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None for p in wide.parameters())
