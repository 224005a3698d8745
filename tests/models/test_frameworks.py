"""What is particular to one framework."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from torch.nn.functional import normalize

from conftest import compose_config
from jobs import make_job
from scfl_green.data.reading.cells import Cells
from scfl_green.energy.meter import EnergyMeter
from scfl_green.models.base import CellClassifier
from scfl_green.models.sccdcg import cell_graph, sinkhorn_targets
from scfl_green.models.scores import UNLABELLED

GENERATOR = torch.Generator().manual_seed(0)
Y = torch.arange(24) % 4
# Four kinds of cells, near their kind's centre.
X = 2 * torch.randn(4, 101, generator=GENERATOR)[Y] + torch.randn(24, 101, generator=GENERATOR)
OPTIONS = [
    ["model=sccdcg", "model.clustering=0.1"],
    ["model=scsmd", "model.cellnet=true"],
    ["model=scsmd", "model.attention_gate=true"],
    ["model=scsmd", "model.attention_gate=true", "model.cellnet=true", "model.width=0.3"],
]


def build(folder: Path, *overrides: str) -> CellClassifier:
    torch.manual_seed(0)
    return instantiate(compose_config(folder, *overrides).model, n_genes=101, n_types=4, _convert_="all")


@pytest.mark.parametrize("overrides", OPTIONS, ids=" ".join)
def test_every_parameter_of_every_option_gets_a_gradient(tmp_path: Path, overrides: list[str]) -> None:
    model = build(tmp_path, *overrides)
    _, terms = model.loss(X, Y)
    torch.stack([*terms.values()]).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def graph_terms(model: CellClassifier, x: torch.Tensor) -> list[float]:
    model.eval()
    _, terms = model.loss(x, Y)
    return [float(terms[name].detach()) for name in ("deep_cut", "orthogonality")]


def test_sccdcgs_graph_terms_belong_to_the_cells_and_not_to_their_order(tmp_path: Path) -> None:
    model = build(tmp_path, "model=sccdcg")
    before = graph_terms(model, X)
    assert graph_terms(model, X[torch.randperm(24, generator=GENERATOR)]) == pytest.approx(before, rel=1e-4)
    swapped = torch.cat([X[:12], torch.randn(12, 101, generator=GENERATOR)])
    assert all(a != pytest.approx(b, rel=1e-4) for a, b in zip(graph_terms(model, swapped), before, strict=True))


def test_a_cell_graph_is_symmetric_and_its_largest_eigenvalue_is_one() -> None:
    for beta in (0.0, 1.0):
        graph = cell_graph(X, beta)
        torch.testing.assert_close(graph, graph.T)
        assert torch.linalg.eigvalsh(graph)[-1] == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(cell_graph(X, 0.3), 0.3 * cell_graph(X, 1.0) + 0.7 * cell_graph(X, 0.0))


def test_the_deep_cut_is_lower_where_linked_cells_lie_together(tmp_path: Path) -> None:
    model = build(tmp_path, "model=sccdcg")
    together, mixed = (normalize(torch.eye(64)[kinds], dim=0) for kinds in (Y, torch.arange(24) // 6))
    assert model.deep_cut(X, together) < model.deep_cut(X, mixed)


def test_sinkhorn_targets_are_balanced() -> None:
    targets = sinkhorn_targets(torch.rand(24, 4, generator=GENERATOR), iterations=500)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(24))
    torch.testing.assert_close(targets.sum(dim=0), torch.full((4,), 6.0), rtol=1e-2, atol=1e-2)


def test_cellnet_learns_from_cells_without_a_type(tmp_path: Path) -> None:
    unlabelled = torch.full((24,), UNLABELLED)
    plain, model = build(tmp_path, "model=scsmd"), build(tmp_path, "model=scsmd", "model.cellnet=true")
    _, terms = plain.loss(X, unlabelled)
    assert float(terms["cross_entropy"].detach()) == 0.0

    def loss() -> torch.Tensor:
        return torch.stack([*model.loss(X, unlabelled)[1].values()]).sum()

    first = loss()
    first.backward()
    assert any(p.grad is not None and p.grad.any() for n, p in model.named_parameters() if n.startswith("encoder"))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(20):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert float(loss().detach()) < float(first.detach())


def test_cells_without_a_type_can_be_trained_on(tmp_path: Path, few: Cells, meter: EnergyMeter) -> None:
    cfg = compose_config(tmp_path, "model=scsmd", "model.cellnet=true")
    job = make_job(few, meter, model=instantiate(cfg.model, _partial_=True))
    part = next(iter(job.split.clients.values()))
    job.features.labels = job.features.labels.copy()
    job.features.labels[part.train[::2]] = UNLABELLED
    weights, metrics = job.fit(part, job.initial, epochs=2, validate=True)
    assert all(value.isfinite().all() for value in weights.values())
    assert 0 < metrics["train/accuracy"] <= 1


def test_scdlc_reads_its_steps_in_order(tmp_path: Path) -> None:
    model = build(tmp_path, "model=scdlc", "model.steps=4").eval()
    padded = torch.nn.functional.pad(X, (0, 3)).view(24, 4, 26).flip(1).reshape(24, 104)[:, :101]
    with torch.no_grad():
        assert not torch.allclose(model(X), model(padded), atol=1e-3)
