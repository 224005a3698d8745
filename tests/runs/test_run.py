"""Whole runs: as a user starts them, and what they leave behind."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import anndata as ad
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from conftest import ROOT, compose_config
from program import start_program
from scfl_green.analysis.collect import collect
from scfl_green.data.sources import local as sources
from scfl_green.errors import InputError
from scfl_green.runs.assemble import load_dataset
from scfl_green.runs.run import run
from scfl_green.training.trained_model import TrainedModel
from wandb_file import configs, records

SHARED = ROOT.parent / "shared/data"
QUICK = ["federation.rounds=2", "federation.local_epochs=1", "data.n_genes=200", "logger=none", "trainer=cpu"]
FIELDS = """
    data model opt regime split seed fingerprint cells_train cells_test genes types clients rounds
    local_epochs epochs batch_size precision parameters accuracy weighted_f1 macro_f1 balanced_accuracy
    calibration_error seconds_fit energy_kwh energy_cpu_kwh energy_gpu_kwh energy_ram_kwh emissions_kg energy_mode
    country
    carbon_intensity_kg_per_kwh bytes_up bytes_down transfer_kwh transfer_emissions_kg train_flops
    eaps versions
    too_short cells_seen bytes_prepare bytes_spared eaps_cpu eaps_low_network eaps_high_network
    pue countries waited_hours emissions_g_per_model emissions_g_per_1000_cells
    idle_seconds idle_energy_kwh idle_emissions_kg waiting_energy_kwh
    clients_by_round refused epsilon delta device
    threads cores load_at_start processor method
    temperature cells_calibration calibration_error_scaled bytes_calibrate validation_weighted_f1
    validation_macro_f1 best_step tested_on
""".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def default_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """``python train.py`` in an empty folder: that folder, and what was printed."""
    folder = tmp_path_factory.mktemp("default")
    ended = start_program(folder)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    return folder / "logs/runs/pancreas-actinn-baseline-federated-s42", ended.stdout


def test_the_default_run_learns_and_records(default_run: tuple[Path, str]) -> None:
    folder, printed = default_run
    record = json.loads((folder / "result.json").read_text())
    assert set(record) == set(FIELDS)
    assert record["accuracy"] >= 0.88
    assert (record["clients"], record["rounds"], record["types"]) == (4, 5, 9)
    assert record["cells_train"] + record["cells_test"] < 3274
    assert record["cells_test"] == pytest.approx(0.2 * 3274, abs=4)
    assert record["energy_kwh"] == pytest.approx(
        record["energy_cpu_kwh"] + record["energy_gpu_kwh"] + record["energy_ram_kwh"]
    )
    assert record["eaps"] == pytest.approx(
        record["weighted_f1"] / (record["emissions_kg"] + record["transfer_emissions_kg"])
    )
    assert record["eaps_low_network"] > record["eaps"] > record["eaps_high_network"]
    weights_bytes = 4 * record["parameters"]
    # The weights go to each client once after every round, to be validated and trained on; the first are drawn there.
    assert record["bytes_down"] == pytest.approx(4 * 5 * weights_bytes, rel=0.02)
    assert record["bytes_up"] - record["bytes_prepare"] == pytest.approx(4 * 5 * weights_bytes, rel=0.02)
    assert [line for line in printed.splitlines() if line.startswith("round 5/5")]
    for word in ("accuracy", "macro F1", "Wh", "g CO2e", "EAPS", "MB", "Tosti et al. 2021", "result.json"):
        assert word in printed


def test_the_table_fits_a_terminal_of_80_columns(default_run: tuple[Path, str]) -> None:
    table = [line for line in default_run[1].splitlines() if not line.startswith("/")]
    assert max(len(line) for line in table) <= 80
    summary = (default_run[0] / "summary.txt").read_text()
    assert summary in default_run[1]
    assert "…" not in summary


def test_central_training_is_within_three_points(default_run: tuple[Path, str], tmp_path: Path) -> None:
    federated = json.loads((default_run[0] / "result.json").read_text())
    central = run(compose_config(tmp_path, "regime=central", "logger=none"))
    assert central["epochs"] == federated["epochs"]
    assert (central["bytes_up"], central["rounds"]) == (0, 0)
    assert abs(central["accuracy"] - federated["accuracy"]) <= 0.03


def test_what_is_left_is_enough_to_use_the_weights(default_run: tuple[Path, str]) -> None:
    folder, _ = default_run
    start = TrainedModel.load(str(folder))
    record = json.loads((folder / "result.json").read_text())
    assert len(start.types) == record["types"]
    assert start.calibration is not None
    assert start.calibration.temperature == record["temperature"]
    assert start.calibration.n_cells == record["cells_calibration"] == pytest.approx(0.1 * 0.8 * 3274, abs=4)
    assert record["calibration_error_scaled"] < record["calibration_error"]
    assert 4 * 4 * record["parameters"] < record["bytes_calibrate"] < record["bytes_down"] / 4
    assert len(start.preparation.genes) == record["genes"]
    assert sum(value.numel() for value in load_file(folder / "weights.safetensors").values()) == record["parameters"]
    about = json.loads((folder / "model.json").read_text())
    assert about["model"]["_target_"] == "scfl_green.models.ACTINN"
    rounds = pd.read_csv(folder / "metrics.csv")
    assert list(rounds["round"]) == [1, 2, 3, 4, 5]
    assert rounds["emissions/co2eq_g"].is_monotonic_increasing
    energy = pd.read_csv(folder / "energy.csv")
    assert len(energy[energy["phase"] == "fit"]) == 20
    counted = energy[energy["phase"].isin(["fit", "messages", "aggregate"])]
    assert counted["energy_kwh"].sum() == pytest.approx(record["energy_kwh"])
    assert (folder / ".hydra/config.yaml").exists()


def test_the_default_run_is_a_wandb_run_that_tells_nothing_of_the_machine(default_run: tuple[Path, str]) -> None:
    folder, _ = default_run
    (config,) = configs(folder)
    assert config["model"]["_target_"] == "scfl_green.models.ACTINN"
    (file,) = folder.rglob("*.wandb")
    seen = list(records(file))
    curves = {item.key or ".".join(item.nested_key) for record in seen for item in record.history.item}
    assert {"emissions/co2eq_g", "validation/accuracy", "train/loss"} <= curves
    summary = {item.key: item.value_json for record in seen for item in record.summary.update}
    assert json.loads(summary["accuracy"]) == json.loads((folder / "result.json").read_text())["accuracy"]
    raw = file.read_bytes()
    for secret in (str(ROOT), str(folder), "train.py"):
        assert secret.encode() not in raw


def file_hash(folder: Path) -> str:
    return hashlib.sha256((folder / "run/weights.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize("regime", ["federated", "central"])
def test_one_seed_gives_one_weights_file(tmp_path: Path, regime: str) -> None:
    hashes = []
    for number, seed in enumerate([1, 1, 2]):
        run(compose_config(tmp_path / str(number), f"regime={regime}", f"seed={seed}", "model=scsmd", *QUICK))
        hashes.append(file_hash(tmp_path / str(number)))
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_finished_run_is_not_run_again_and_another_one_sets_it_aside(tmp_path: Path) -> None:
    first = run(compose_config(tmp_path, *QUICK))
    file = tmp_path / "run/result.json"
    written = file.stat().st_mtime_ns
    assert run(compose_config(tmp_path, *QUICK, "name=other")) == first
    assert file.stat().st_mtime_ns == written
    second = run(compose_config(tmp_path, *QUICK, "model.l2=0.01"))
    assert second["fingerprint"] != first["fingerprint"]
    aside = tmp_path / "run" / f"earlier-{first['fingerprint']}"
    assert json.loads((aside / "result.json").read_text()) == first
    assert (aside / "weights.safetensors").exists()
    assert collect(tmp_path / "run")["fingerprint"].to_list() == [second["fingerprint"]]


def test_fine_tuning_starts_from_weights_that_never_saw_the_newcomer(tmp_path: Path) -> None:
    quick = [*QUICK, "data.n_genes=500", "federation.rounds=3", "split.newcomers=1"]
    federated = run(compose_config(tmp_path / "a", *quick))
    assert federated["clients"] == 3
    tuned = run(compose_config(tmp_path / "b", "regime=finetune", f"weights={tmp_path}/a/run", *quick))
    assert (tuned["clients"], tuned["rounds"], tuned["epochs"]) == (1, 0, 3)
    before, after = TrainedModel.load(str(tmp_path / "a/run")), TrainedModel.load(str(tmp_path / "b/run"))
    assert list(before.preparation.genes) == list(after.preparation.genes)
    assert tuned["cells_test"] < federated["cells_test"]
    assert tuned["accuracy"] > 0.8
    with pytest.raises(ValueError, match="not those of a ScSMD"):
        run(compose_config(tmp_path / "c", "regime=finetune", f"weights={tmp_path}/a/run", "model=scsmd", *quick))
    (tmp_path / "a/run/weights.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="damaged files"):
        run(compose_config(tmp_path / "c", "regime=finetune", f"weights={tmp_path}/a/run", *quick))


def test_a_client_to_fine_tune_at_must_be_a_newcomer(tmp_path: Path) -> None:
    quick = [*QUICK, "split.newcomers=1"]
    run(compose_config(tmp_path / "a", *quick))
    with pytest.raises(ValueError, match=r"finetuning\.client=x"):
        run(
            compose_config(
                tmp_path / "c", "regime=finetune", f"weights={tmp_path}/a/run", "finetuning.client=x", *quick
            )
        )


def test_a_newcomer_learns_from_the_federation_and_from_scratch(tmp_path: Path) -> None:
    quick = [*QUICK, "data.n_genes=500", "federation.rounds=3", "split.newcomers=1", "seed=1"]
    before = run(compose_config(tmp_path / "a", *quick))
    ours = [
        f"weights={tmp_path}/a/run",
        "regime=finetune",
        "trainer.max_epochs=4",
        "finetuning.freeze=[layers.0]",
        "finetuning.curve=true",
        "end=last",
        *quick,
    ]
    record = run(compose_config(tmp_path / "b", *ours))
    curve = pd.read_csv(tmp_path / "b/run/finetune.csv")
    assert list(curve.groupby("arm", sort=False).size()) == [5, 4]
    tuned, scratch = (rows for _, rows in curve.groupby("arm", sort=False))
    for rows, first in ((tuned, 0), (scratch, 1)):
        assert rows["emissions_kg"].is_monotonic_increasing
        assert rows["epoch"].tolist() == [*range(first, 5)]
    untouched, *_ = tuned["test_accuracy"]
    assert record["untouched_accuracy"] == pytest.approx(untouched)
    assert tuned["test_weighted_f1"].iloc[1] > scratch["test_weighted_f1"].iloc[0]
    assert record["emissions_kg"] == pytest.approx(tuned["emissions_kg"].iloc[-1], rel=0.3)
    assert record["accuracy"] == pytest.approx(tuned["test_accuracy"].iloc[-1])
    assert record["scratch_accuracy"] == pytest.approx(scratch["test_accuracy"].iloc[-1])
    assert record["pretraining_emissions_kg"] == before["emissions_kg"] + before["transfer_emissions_kg"]
    saved = record["scratch_emissions_kg_to_target"] - record["tuned_emissions_kg_to_target"]
    paid_back = record["pretraining_emissions_kg"] / saved if saved > 0 else None
    assert record["newcomers_to_pay_back"] == (paid_back and pytest.approx(paid_back))
    first, last = (load_file(tmp_path / place / "run/weights.safetensors") for place in ("a", "b"))
    assert torch.equal(first["layers.0.weight"], last["layers.0.weight"])
    assert not torch.equal(first["layers.2.weight"], last["layers.2.weight"])
    with pytest.raises(ValueError, match="no parameter's name begins with nothing"):
        run(compose_config(tmp_path / "c", *ours, "finetuning.freeze=[nothing]"))


def test_weights_are_not_tested_on_cells_that_they_have_seen(tmp_path: Path) -> None:
    quick = [*QUICK, "split=iid", "split.newcomers=1"]
    run(compose_config(tmp_path / "a", "seed=1", *quick))
    weights = f"weights={tmp_path}/a/run"
    run(compose_config(tmp_path / "b", "seed=1", "regime=finetune", "trainer.max_epochs=1", weights, *quick))
    for regime in ("finetune", "central", "federated"):
        with pytest.raises(ValueError, match="test cells have been trained on"):
            run(compose_config(tmp_path / "c", "seed=2", f"regime={regime}", weights, *quick))


def test_an_arm_stops_when_validation_no_longer_gains(tmp_path: Path) -> None:
    quick = [*QUICK, "split.newcomers=1"]
    run(compose_config(tmp_path / "a", *quick))
    ours = [f"weights={tmp_path}/a/run", "regime=finetune", "trainer.max_epochs=40", "finetuning.patience=1", *quick]
    ours.append("finetuning.curve=true")
    record = run(compose_config(tmp_path / "b", *ours))
    curve = pd.read_csv(tmp_path / "b/run/finetune.csv")
    assert record["epochs"] < 40
    tuned = curve[curve["arm"] == "from the federation"]
    # Of equal ones the last.
    best = tuned[tuned["validation_weighted_f1"] == tuned["validation_weighted_f1"].max()].iloc[-1]
    assert record["accuracy"] == pytest.approx(best["test_accuracy"])
    assert record["kept_epoch"] == best["epoch"]


@pytest.mark.parametrize("regime", ["central", "federated"])
def test_a_carbon_budget_ends_training_with_the_best_weights(tmp_path: Path, regime: str) -> None:
    ours = [*QUICK, f"regime={regime}", "federation.rounds=12"]
    whole = run(compose_config(tmp_path / "a", *ours))
    grams = 0.4 * (whole["emissions_kg"] + whole["transfer_emissions_kg"]) * 1e3
    budget = ["callbacks=carbon_budget", f"budget.grams={grams}", "budget.min_f1_per_gram=null"]
    some = run(compose_config(tmp_path / "b", *ours, *budget))
    assert some["epochs"] < whole["epochs"] == 12
    assert (some["emissions_kg"] + some["transfer_emissions_kg"]) * 1e3 > 0.9 * grams
    assert len(pd.read_csv(tmp_path / "b/run/metrics.csv")) == some["epochs"]
    never = ["callbacks=carbon_budget", "budget.min_f1_per_gram=1e9", "budget.window=2"]
    assert run(compose_config(tmp_path / "c", *ours, *never))["epochs"] == 3


def test_a_run_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import socket\n"
        "connect = socket.socket.connect\n"
        "def loopback_only(self, address):\n"
        "    if self.family != socket.AF_UNIX and address[0] not in ('127.0.0.1', '::1', 'localhost'):\n"
        "        raise SystemExit(f'a socket to {address}')\n"
        "    return connect(self, address)\n"
        "socket.socket.connect = loopback_only\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    probe = [sys.executable, "-c", "import socket; socket.create_connection(('192.0.2.1', 9))"]
    assert "a socket to" in subprocess.run(probe, capture_output=True, text=True).stderr
    ended = start_program(tmp_path, "federation.rounds=1", "federation.local_epochs=1")
    assert ended.returncode == 0, ended.stderr


def test_what_is_killed_leaves_the_energy_that_it_had_used(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), "federation.rounds=50", "logger=none", "trainer=cpu"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("round 3/50"):
                process.kill()
    (path,) = tmp_path.glob("logs/runs/*/energy.csv")
    energy = pd.read_csv(path)
    fits = energy[energy["phase"] == "fit"]
    assert {1, 2} <= set(fits["round"])
    assert (fits[fits["round"] <= 2]["energy_kwh"] > 0).all()
    assert "fit/round-2/Tosti et al. 2021" in set(fits["task"])


def test_donors_as_clients(tmp_path: Path) -> None:
    assert run(compose_config(tmp_path, "data.client_key=donor_id", "federation.min_cells=0", *QUICK))["clients"] == 20


def test_clients_of_few_cells_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    donors = ["data.client_key=donor_id", f"paths.cache={tmp_path}/cache", *QUICK]
    with pytest.raises(InputError, match=r"fewer than federation.min_cells=50 training cells: D28 \(14\), .*_cells=0"):
        run(compose_config(tmp_path, *donors))
    assert [path.name for path in tmp_path.rglob("*")] == ["run"]
    # Pooled, they are enough; prepared by then, the federation of them is still refused.
    assert run(compose_config(tmp_path / "pooled", "regime=central", *donors))["clients"] == 20
    cfg = compose_config(tmp_path, "federation.min_cells=15", *donors)
    with pytest.raises(InputError, match=r"federation.min_cells=15 training cells: D28 \(14\);"):
        load_dataset(cfg, sources.packaged("pancreas"), None, None)
    assert run(compose_config(tmp_path, "federation.min_cells=14", *donors))["clients"] == 20


def test_a_users_own_file(tmp_path: Path) -> None:
    source = ROOT / "src/scfl_green/data/packaged/pancreas.h5ad"
    ours = ["data=h5ad", f"data.path={source}", "data.client_key=donor_id", "federation.min_cells=0", *QUICK]
    assert run(compose_config(tmp_path, *ours))["clients"] == 20


@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared files")
@pytest.mark.parametrize(("dataset", "types", "tested", "least"), [("b_ranked", 3, 170, 0.96), ("c", 9, 275, 0.97)])
def test_the_studys_chunks_beat_what_it_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: str, types: int, tested: int, least: float
) -> None:
    monkeypatch.setenv("SCFL_DATA", str(SHARED))
    cfg = compose_config(tmp_path, f"data=dataset_{dataset}", f"split=published_{dataset}", "logger=none")
    record = run(cfg)
    assert (record["types"], record["cells_test"], record["clients"]) == (types, tested, 4)
    assert record["accuracy"] >= least


def test_an_edited_file_is_not_taken_for_the_one_before(tmp_path: Path) -> None:
    adata = ad.read_h5ad(ROOT / "src/scfl_green/data/packaged/pancreas.h5ad")
    ours = ["data=h5ad", f"data.path={tmp_path}/my.h5ad", "data.client_key=Dataset", "federation.min_cells=0", *QUICK]
    prints = []
    for step in (4, 5):
        adata[::step].copy().write_h5ad(tmp_path / "my.h5ad")
        prints.append(run(compose_config(tmp_path, *ours))["fingerprint"])
    assert prints[0] != prints[1]


def test_a_pruned_run_is_saved_smaller(tmp_path: Path) -> None:
    record = run(compose_config(tmp_path, "opt=prune", "prune.after_round=1", *QUICK))
    stored = load_file(tmp_path / "run/weights.safetensors")
    assert sum(value.numel() for value in stored.values()) == record["parameters"]
    assert stored["layers.0.weight"].shape == (50, 200)
    again = run(compose_config(tmp_path / "more", f"weights={tmp_path}/run", *QUICK))
    assert again["parameters"] == record["parameters"]
