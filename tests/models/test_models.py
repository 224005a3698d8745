"""The frameworks: what each must do whatever its sizes."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate

from conftest import CONFIGS, compose_config
from jobs import make_job
from scfl_green.data.reading.cells import Cells
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.models.base import CellClassifier
from scfl_green.training.trainer import effective_precision

MODELS = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml"))


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> CellClassifier:
    # Noise in a sequence of 100 takes long to learn by heart.
    shorter = {"scdlc_paper": ["model.steps=10"]}.get(request.param, [])
    cfg = compose_config(tmp_path, f"model={request.param}", *shorter)
    torch.manual_seed(0)
    # Of six types, so that an untrained scSMD is sure of pairs of cells that differ.
    return instantiate(cfg.model, n_genes=101, n_types=6, _convert_="all")


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(24, 101, generator=generator), torch.arange(24) % 4


def test_every_parameter_gets_a_gradient(model: CellClassifier) -> None:
    x, y = batch()
    logits, terms = model.loss(x, y)
    torch.stack([*terms.values()]).sum().backward()
    assert logits.shape == (24, 6)
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


def test_prediction_does_not_depend_on_the_batchs_other_cells(model: CellClassifier) -> None:
    x, _ = batch()
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x)[:3], model(x[:3]), rtol=1e-4, atol=1e-5)


def test_one_batch_can_be_learnt_by_heart(model: CellClassifier) -> None:
    x, y = batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        # In evaluation mode: dropout, of .7 between the layers of scDLC's paper, is for what generalises.
        logits, terms = model.eval().loss(x, y)
        if learnt := bool((logits.argmax(dim=1) == y).all()):
            break
        torch.stack([*terms.values()]).sum().backward()
        optimizer.step()
    assert learnt


def test_bf16_logits_are_close_to_those_of_float32(model: CellClassifier) -> None:
    x, _ = batch()
    model.eval()
    with torch.no_grad():
        exact = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(x)
    assert (rounded - exact).norm() <= 2e-2 * exact.norm()


def test_weights_have_no_buffers_that_average_badly(model: CellClassifier) -> None:
    assert all(value.is_floating_point() for value in model.state_dict().values())
    assert not list(model.buffers())


def test_flops_are_counted_forward_and_backward(few: Cells, meter: EnergyMeter) -> None:
    job = make_job(few, meter)
    weights = sum(p.numel() for n, p in job.model.named_parameters() if n.endswith("weight"))
    first = job.model.layers[0].weight.numel()
    # A multiplication and an addition a weight: forward, for the weight and, past the first layer, for the input.
    assert job.flops_per_cell(job.model) == 2 * (3 * weights - first)


def test_a_recurrent_layers_flops_are_counted(tmp_path: Path, few: Cells, meter: EnergyMeter) -> None:
    cfg = compose_config(tmp_path, "model=scdlc")
    job = make_job(few, meter, model=instantiate(cfg.model, _partial_=True))
    lstm = sum(p.numel() for n, p in job.model.named_parameters() if n.startswith("lstm.weight"))
    assert job.flops_per_cell(job.model) > 4 * lstm * job.model.steps


def test_mixed_precision_is_what_the_device_has() -> None:
    assert effective_precision("mixed", "cpu") == "bf16-mixed"
    assert effective_precision("mixed", "cuda") == "16-mixed"
    assert effective_precision("32-true", "cpu") == "32-true"
    with pytest.raises(InputError, match="fp16"):
        effective_precision("16-mixed", "cpu")


@pytest.mark.parametrize(("processor", "emulates"), [("AVX2", True), ("AVX512", False), ("DEFAULT", False)])
def test_a_processor_that_emulates_bf16_is_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, processor: str, emulates: bool
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: processor)
    for requested in ("mixed", "bf16-mixed", "32-true"):
        effective_precision(requested, "cpu")
    effective_precision("bf16-mixed", "cuda")
    assert len(caplog.messages) == (2 if emulates else 0)


def test_mixed_precision_computes_in_bf16_and_keeps_float32_weights(few: Cells, meter: EnergyMeter) -> None:
    seen = []

    class Watch(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            self.hook = module.layers[0].register_forward_hook(lambda *args: seen.append(args[-1].dtype))

        def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            self.hook.remove()

    job = make_job(few, meter)
    job.trainer.keywords["precision"] = "bf16-mixed"
    part = next(iter(job.split.clients.values()))
    weights, _ = job.fit(part, job.initial, epochs=1, callbacks=[Watch()])
    assert set(seen) == {torch.bfloat16}
    assert all(value.dtype == torch.float32 for value in weights.values())
