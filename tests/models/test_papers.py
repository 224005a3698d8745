"""The frameworks held against their papers: sizes, and the same numbers from a second implementation of each."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from hydra.utils import instantiate

from conftest import compose_config
from jobs import make_job
from scfl_green.data.reading.cells import Cells
from scfl_green.energy.meter import EnergyMeter
from scfl_green.models import Linear
from scfl_green.models.base import CellClassifier
from scfl_green.models.sccdcg import cell_graph
from scfl_green.models.scsmd_blocks import MultiDilatedGate

TYPES = 9
GENERATOR = torch.Generator().manual_seed(0)


def build(folder: Path, n_genes: int, *overrides: str) -> CellClassifier:
    torch.manual_seed(0)
    cfg = compose_config(folder, *overrides)
    return instantiate(cfg.model, n_genes=n_genes, n_types=TYPES, _convert_="all").eval()


def size(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def lstm(sequence: np.ndarray, weights: dict[str, np.ndarray], layer: int) -> np.ndarray:
    """The states of one layer, cell by cell as in Hochreiter & Schmidhuber, with one bias a gate."""
    w_x, w_h, *biases = (weights[f"lstm.{kind}_l{layer}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    state = memory = np.zeros((len(sequence), w_h.shape[1]))
    states = []
    for x in sequence.swapaxes(0, 1):
        into, forget, new, out = np.split(x @ w_x.T + state @ w_h.T + sum(biases), 4, axis=1)
        memory = sigmoid(forget) * memory + sigmoid(into) * np.tanh(new)
        state = sigmoid(out) * np.tanh(memory)
        states.append(state)
    return np.stack(states, axis=1)


def test_scdlc_has_the_papers_size_and_computes_what_the_paper_says(tmp_path: Path) -> None:
    model = build(tmp_path, 100, "model=scdlc_paper")
    # 1 -> 200, LSTMs of 64 on 200 and on 64, 64 -> 9: the paper's network; PyTorch repeats the biases of both LSTMs.
    paper = (200 + 200) + 4 * 64 * (200 + 64 + 1) + 4 * 64 * (64 + 64 + 1) + (64 * 9 + 9)
    assert paper == 101_849
    assert size(model) == paper + 2 * 4 * 64
    weights = {name: value.double().numpy() for name, value in model.state_dict().items()}
    x = torch.randn(7, 100, generator=GENERATOR)
    embedded = x.double().numpy()[:, :, None] * weights["embed.weight"][:, 0] + weights["embed.bias"]
    states = lstm(lstm(np.maximum(embedded, 0), weights, 0), weights, 1)
    expected = states[:, -1] @ weights["classifier.weight"].T + weights["classifier.bias"]
    with torch.no_grad():
        np.testing.assert_allclose(model(x).numpy(), expected, atol=1e-5)
        # Dropout is between the LSTM layers alone.
        model.train()
        assert not torch.equal(model(x), model(x))
        model.lstm.dropout = 0.0
        np.testing.assert_allclose(model(x).numpy(), expected, atol=1e-5)


class Scsmd:
    """The authors' network, function by function, with group normalisation; takes weights in the order of use."""

    def __init__(self, model: CellClassifier) -> None:
        self.weights = iter([*model.encoder.parameters(), *model.classifier.parameters()])

    def convolution(self, x: torch.Tensor, bias: bool = True, **options: int) -> torch.Tensor:
        weight = next(self.weights)
        return F.conv2d(x, weight, next(self.weights) if bias else None, **options)

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        scale, shift = next(self.weights), next(self.weights)
        mean, variance = x.mean(dim=(1, 2, 3), keepdim=True), x.var(dim=(1, 2, 3), keepdim=True, unbiased=False)
        return (x - mean) / (variance + 1e-5).sqrt() * scale[:, None, None] + shift[:, None, None]

    def twice(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            x = self.norm(self.convolution(x, padding=1)).relu()
        return x

    def squeeze(self, x: torch.Tensor) -> torch.Tensor:
        fine, coarse = self.twice(x), self.twice(F.avg_pool2d(x, 2))
        y = coarse.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        return y * fine + y

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        scales = [self.norm(self.convolution(x, padding=rate, dilation=rate)) for rate in (2, 4, 6, 8)]
        return x + x * self.norm(self.convolution(torch.cat(scales, dim=1).relu())).sigmoid()

    def bottleneck(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.convolution(x, bias=False)).relu()
        y = self.norm(self.gate(y)).relu()
        return (x + self.norm(self.convolution(y, bias=False))).relu()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        x = self.convolution(x.view(-1, 1, 28, 28), bias=False, stride=2, padding=2)
        x = self.bottleneck(self.norm(self.squeeze(x)).relu())
        x = self.bottleneck(self.convolution(x, stride=2, padding=2).relu())
        x = self.bottleneck(self.convolution(x, stride=2).relu())
        latent = F.linear(x.flatten(1), next(self.weights), next(self.weights))
        return F.linear(latent, next(self.weights), next(self.weights))


def test_scsmd_has_the_authors_size_and_computes_what_their_code_does(tmp_path: Path) -> None:
    assert size(MultiDilatedGate(64)) == 164_800
    model = build(tmp_path, 784, "model=scsmd_paper")
    blocks = sum(2 * 64 * planes + 164_800 + 2 * (2 * 64 + planes) for planes in (32, 64, 128))
    squeeze = 4 * (32 * 32 * 9 + 32 + 2 * 32)
    convolutions = 25 * 32 + 2 * 32 + (32 * 25 + 1) * 64 + (64 * 9 + 1) * 128 + (1152 + 1) * 10
    decoder = 11 * 1152 + (128 * 9 * 64 + 64) + (64 * 25 * 32 + 32) + (32 * 16 + 1)
    cellnet = 11 * 128 + 129 * 128 + 2 * 2 * 128 + 129 * TYPES
    assert size(model) == blocks + squeeze + convolutions + decoder + cellnet + 11 * TYPES
    x = torch.randn(3, 784, generator=GENERATOR)
    with torch.no_grad():
        torch.testing.assert_close(model(x), (second := Scsmd(model))(x), rtol=1e-4, atol=1e-5)
        assert next(second.weights, None) is None
        assert model.decoded(model.encoder(model.image(x))).shape == (3, 1, 28, 28)


@pytest.mark.parametrize("n_genes", [1, 80, 82, 2000])
def test_scsmd_reads_images_of_any_size(tmp_path: Path, n_genes: int) -> None:
    model = build(tmp_path, n_genes, "model=scsmd_paper", "model.width=0.1")
    _, terms = model.loss(torch.randn(3, n_genes, generator=GENERATOR), torch.arange(3))
    assert set(terms) == {"cross_entropy", "reconstruction", "cellnet"}
    assert all(value.isfinite() for value in terms.values())


def test_scsmds_cellnet_is_told_of_pairs_by_their_assignments(tmp_path: Path) -> None:
    model = build(tmp_path, 784, "model=scsmd_paper")
    logits = 20 * torch.eye(TYPES)[torch.tensor([0, 0, 1])]
    agreeing, all_one, none = (
        torch.eye(TYPES)[torch.tensor([4, 4, 2])],
        torch.eye(TYPES)[[4, 4, 4]],
        torch.eye(TYPES)[:3],
    )
    assert float(model.pairwise(logits, agreeing)) == 0
    assert float(model.pairwise(logits, all_one)) == pytest.approx(4 / 9)
    assert float(model.pairwise(logits, none)) == pytest.approx(2 / 9)
    unsure = torch.zeros(3, TYPES)
    unsure[:, :2] = 10.0  # one of two types: neither alike nor different
    assert float(model.pairwise(unsure, all_one)) == 0


def authors_deep_cut(x: np.ndarray, h: np.ndarray, balancer: float) -> tuple[float, float]:
    """``loss_corvariates`` and ``loss_ort`` of scCDCG's training, for non-negative profiles x."""

    def laplace(edges: np.ndarray) -> np.ndarray:
        degree = np.diag(edges.sum(axis=1) ** -0.5)
        return degree @ edges @ degree

    profiles = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = np.abs(profiles @ profiles.T)
    graph = balancer * laplace(profiles @ profiles.T) + (1 - balancer) * laplace(cosines @ cosines.T)
    z = h / np.linalg.norm(h, axis=1, keepdims=True)
    z = z / np.linalg.norm(z, axis=0, keepdims=True)
    cut = -np.trace(z.T @ graph @ z) / z.shape[1]
    return cut, float(((z.T @ z - np.eye(z.shape[1])) ** 2).mean())


def test_sccdcgs_graph_terms_are_the_authors(tmp_path: Path) -> None:
    model = build(tmp_path, 40, "model=sccdcg", "model.beta=0.42", "model.deep_cut=0.2", "model.orthogonality=0.87")
    x = torch.rand(30, 40, generator=GENERATOR)
    _, terms = model.loss(x, torch.arange(30) % TYPES)
    with torch.no_grad():
        h = model.encoder(x)
    cut, apart = authors_deep_cut(x.double().numpy(), h.double().numpy(), 0.42)
    assert float(terms["deep_cut"].detach()) == pytest.approx(0.2 * cut, rel=1e-4)
    assert float(terms["orthogonality"].detach()) == pytest.approx(0.87 * apart, rel=1e-4)


def test_sccdcgs_deep_cut_reaches_one_and_links_no_cells_that_are_unlike(tmp_path: Path) -> None:
    kinds = torch.arange(24) % 2
    centred = torch.randn(1, 50, generator=GENERATOR) * (2.0 * kinds - 1)[:, None]
    centred += 0.3 * torch.randn(24, 50, generator=GENERATOR)
    unlike = kinds[:, None] != kinds
    for beta in (0.0, 1.0):
        graph = cell_graph(centred, beta)
        assert float(graph[unlike].max()) == 0
        assert float(graph[~unlike].min()) > 0
    model = build(tmp_path, 50, "model=sccdcg", "model.beta=1.0")
    by_kind = F.normalize(torch.eye(2)[kinds] * graph.sum(dim=1, keepdim=True), dim=0)
    assert float(model.deep_cut(centred, by_kind)) == pytest.approx(-1, abs=0.02)


def test_linear_is_what_scikit_learn_calls_logistic_regression(tmp_path: Path) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    model = build(tmp_path, 30, "model=linear", "model.l2=0.02")
    x, y = torch.randn(60, 30, generator=GENERATOR), torch.arange(60) % TYPES
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=300, line_search_fn="strong_wolfe", tolerance_change=1e-12
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        total = torch.stack([*model.loss(x, y)[1].values(), *model.penalty().values()]).sum()
        total.backward()
        return total

    optimizer.step(closure)
    theirs = linear_model.LogisticRegression(C=1 / (0.02 * len(x)), max_iter=2000, tol=1e-8).fit(x.numpy(), y.numpy())
    with torch.no_grad():
        np.testing.assert_allclose(model(x).softmax(dim=1).numpy(), theirs.predict_proba(x.numpy()), atol=2e-3)


def test_the_papers_recipes_are_the_authors(tmp_path: Path) -> None:
    cfg = compose_config(tmp_path, "experiment=published", "model=scdlc_paper")
    assert (cfg.data.n_genes, cfg.data.batch_size, cfg.trainer.gradient_clip_val) == (100, 11, 5)
    make = partial(instantiate, n_genes=100, n_types=3, _convert_="all")
    configured = make(cfg.model).configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    assert isinstance(optimizer, torch.optim.RMSprop)
    assert optimizer.param_groups[0]["lr"] == 5e-3
    for _ in range(30 * 1326 // 11):
        optimizer.step()
        scheduler.step()
    assert scheduler.get_last_lr() == [pytest.approx(1e-3, rel=1e-3)]
    cfg = compose_config(tmp_path, "experiment=published", "model=scsmd_paper")
    assert (cfg.data.n_genes, cfg.data.batch_size, cfg.model.optimizer.lr) == (784, 100, 1e-3)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "by batch"])
def test_the_learning_rate_decays_over_the_epochs_of_a_fit(few: Cells, meter: EnergyMeter, packed: bool) -> None:
    rates = []

    class Watch(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            rates.append(module.optimizers(use_pl_optimizer=False).param_groups[0]["lr"])

    job = make_job(few, meter, model=partial(Linear, decay=True), packed=packed)
    part = next(iter(job.split.clients.values()))
    for _ in range(2):  # every fit begins anew
        job.fit(part, job.initial, epochs=4, callbacks=[Watch()])
    assert rates == [pytest.approx(rate) for rate in 2 * [1e-3, 0.75e-3, 0.5e-3, 0.25e-3]]


def test_two_ways_to_set_the_learning_rate_are_refused(tmp_path: Path) -> None:
    cfg = compose_config(tmp_path, "experiment=published", "model=actinn", "model.decay=true")
    with pytest.raises(ValueError, match="choose one"):
        instantiate(cfg.model, n_genes=10, n_types=3, _convert_="all").configure_optimizers()
