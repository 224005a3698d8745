"""What the weights tell of the cells that they were trained on, from runs as they are left on disk."""

import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from conftest import CONFIGS, ROOT, compose_config
from program import scfl_green
from scfl_green.analysis.leakage import compared, privacy
from scfl_green.analysis.report import report
from scfl_green.analysis.score import auc, tpr_at_fpr
from scfl_green.errors import InputError
from scfl_green.runs.reopen import reopen
from scfl_green.runs.run import run

QUICK = ["federation.rounds=1", "federation.local_epochs=1", "data.n_genes=100", "logger=none", "trainer=cpu"]
MODELS = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml"))


def finished(folder: Path, *overrides: str) -> Path:
    """The folder of a run, with the configuration in it that Hydra leaves there."""
    cfg = compose_config(folder, *overrides)
    (folder / "run/.hydra").mkdir()
    OmegaConf.save(cfg, folder / "run/.hydra/config.yaml")
    run(cfg)
    return folder / "run"


def few_cells(path: Path, step: int = 16) -> list[str]:
    """Every 16th cell of the embedded dataset as a user's file: 205 cells."""
    ad.read_h5ad(ROOT / "src/scfl_green/data/packaged/pancreas.h5ad")[::step].copy().write_h5ad(path)
    return ["data=h5ad", f"data.path={path}", "data.client_key=Dataset", "data.donor_key=donor_id"]


@pytest.mark.parametrize(("n", "m", "decimals"), [(300, 40, 9), (31, 77, 1), (5, 4, 0), (60, 60, 0)])
def test_the_auc_is_mann_whitneys_and_scikit_learns_ties_included(n: int, m: int, decimals: int) -> None:
    rng = np.random.default_rng(n)
    low, high = rng.normal(size=n).round(decimals), rng.normal(0.5, 1.5, size=m).round(decimals)
    labels, scores = np.repeat([1, 0], [n, m]), -np.concatenate([low, high])
    area = auc(low, high)
    assert area.estimate == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert area.estimate == pytest.approx(stats.mannwhitneyu(high, low).statistic / (n * m), abs=1e-12)
    assert 0 <= area.low <= area.estimate <= area.high <= 1
    turned = auc(high, low)
    assert (turned.low, turned.high) == pytest.approx((1 - area.high, 1 - area.low))
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    for fpr in (0.01, 0.1, 0.5):
        assert tpr_at_fpr(low, high, fpr) == true[false <= fpr].max()


@pytest.mark.parametrize(("n", "m", "true"), [(400, 100, 0.5), (135, 38, 0.5), (135, 38, 0.65), (60, 15, 0.85)])
def test_intervals_of_the_auc_hold_the_true_one_in_95_of_100_cases(n: int, m: int, true: float) -> None:
    rng = np.random.default_rng(0)
    shift = np.sqrt(2) * stats.norm.ppf(true)
    missed = [auc(rng.normal(size=n), rng.normal(shift, size=m)).excludes(true) for _ in range(2000)]
    assert 0.035 <= np.mean(missed) <= 0.065


def test_intervals_at_the_ends() -> None:
    apart = auc(np.zeros(100), np.ones(20))
    assert (apart.estimate, apart.high) == (1, 1)
    assert apart.low == pytest.approx(stats.binomtest(20, 20).proportion_ci(0.95).low)
    turned = auc(np.ones(100), np.zeros(20))
    assert (turned.low, turned.high) == pytest.approx((0, 1 - apart.low))
    one = auc(np.zeros(100), np.array([1.0]))
    assert (one.low, one.high) == (0, 1)
    same = auc(np.zeros(100), np.zeros(20))
    assert not same.excludes(0.5)


def test_a_model_that_has_learnt_nothing_leaks_nothing(tmp_path: Path) -> None:
    table = privacy(finished(tmp_path, "model.optimizer.lr=1e-9", *QUICK)).set_index("client").loc["all"]
    assert table["auc_low"] < 0.5 < table["auc_high"]
    assert table["auc_high"] - table["auc_low"] < 0.06


def test_an_overfitted_model_leaks(tmp_path: Path) -> None:
    ours = [*few_cells(tmp_path / "few.h5ad"), "regime=central", "trainer.max_epochs=60", "model.l2=0", *QUICK]
    folder = finished(tmp_path, *ours)
    together = privacy(folder).set_index("client").loc["all"]
    assert together["members"] + together["non_members"] < 205
    assert together["auc"] > 0.65
    assert together["auc_low"] > 0.55
    first = (folder / "privacy.csv").read_bytes()
    assert (pd.read_csv(folder / "privacy.csv").loc[4, "auc"]) == together["auc"]
    privacy(folder)
    assert (folder / "privacy.csv").read_bytes() == first
    # Prepared again where the cache is gone.
    shutil.rmtree(reopen(folder).dataset.folder)
    privacy(folder)
    assert (folder / "privacy.csv").read_bytes() == first
    # A run whose data have changed, or gone, is refused.
    few_cells(tmp_path / "few.h5ad", step=15)
    with pytest.raises(InputError, match=r"few\.h5ad changed after the run"):
        privacy(folder)
    (tmp_path / "few.h5ad").unlink()
    with pytest.raises(InputError, match="run: no file at"):
        privacy(folder)
    assert (folder / "privacy.csv").read_bytes() == first


@pytest.mark.parametrize(
    "model", [pytest.param(name, marks=[pytest.mark.slow] if name.endswith("_paper") else []) for name in MODELS]
)
def test_members_are_the_training_cells_of_every_client(tmp_path: Path, model: str) -> None:
    folder = finished(tmp_path, f"model={model}", *QUICK)
    reopened = reopen(folder)
    assert not reopened.model.training
    split = reopened.dataset.split
    assert list(compared(reopened)) == list(split.clients)
    for name, (members, others) in compared(reopened).items():
        assert np.array_equal(members, split.clients[name].train)
        assert np.array_equal(others, split.clients[name].test)
    table = privacy(folder)
    assert list(table["client"]) == [*split.clients, "all"]
    assert table["members"].iloc[:-1].sum() == table["members"].iloc[-1] == 2357


def test_a_fine_tuned_model_has_seen_the_newcomer_too(tmp_path: Path) -> None:
    quick = ["split.newcomers=1", "opt=prune", "prune.after_round=1", *QUICK[1:], "federation.rounds=2"]
    before = privacy(finished(tmp_path / "a", *quick))
    tuning = [override for override in quick if "prune" not in override]
    folder = finished(tmp_path / "b", "regime=finetune", f"weights={tmp_path}/a/run", *tuning)
    # As Hydra leaves it where the federated run was found by its name.
    cfg = OmegaConf.load(folder / ".hydra/config.yaml")
    cfg.weights = "${federated_run:}"
    OmegaConf.save(cfg, folder / ".hydra/config.yaml")
    ended = scfl_green("leakage", folder, tmp_path)
    after = pd.read_csv(folder / "privacy.csv")
    assert list(after["client"]) == [*before["client"][:-1], "Tritschler et al. 2022", "all"]
    # A folder of a stranger names code of its own.
    cfg.data.source = {"_target_": "os.system", "command": f"touch {tmp_path}/harm"}
    OmegaConf.save(cfg, folder / ".hydra/config.yaml")
    with pytest.raises(InputError, match=r"data.source._target_=os.system: not among"):
        privacy(folder)
    assert not (tmp_path / "harm").exists()
    # No run lies in the second folder.
    assert ended.stderr.startswith(f"error: {tmp_path}: no .hydra/config.yaml there; name the folder of a finished run")
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)


def test_test_cells_of_other_donors_are_no_non_members(tmp_path: Path) -> None:
    folder = finished(tmp_path / "a", "split.test=donors", "end=last", *QUICK)
    reopened = reopen(folder)
    assert all(
        np.array_equal(others, reopened.dataset.split.clients[name].validation)
        for name, (_, others) in compared(reopened).items()
    )
    chosen_by = finished(tmp_path / "b", "split.test=donors", "regime=central", *QUICK)
    with pytest.raises(InputError, match="validation cells were used to choose weights"):
        privacy(chosen_by)
    without = finished(tmp_path / "c", "split.test=[Muraro et al. 2016]", "split.validation=0", *QUICK)
    with pytest.raises(InputError, match="there are no validation cells"):
        privacy(without)
    assert not (without / "privacy.csv").exists()


def test_of_weights_begun_with_only_the_newcomers_validation_cells_are_surely_unseen(tmp_path: Path) -> None:
    ours = ["split.test=[Muraro et al. 2016]", "split.newcomers=1", "end=last", *QUICK]
    finished(tmp_path / "a", *ours)
    folder = finished(tmp_path / "b", "regime=finetune", f"weights={tmp_path}/a/run", *ours)
    assert list(privacy(folder)["client"]) == ["Tritschler et al. 2022", "all"]


def test_the_report_shows_it_where_it_was_measured(tmp_path: Path) -> None:
    folder = finished(tmp_path / "sweep/a", *QUICK)
    for name in ("one", "other"):
        shutil.copytree(folder, tmp_path / "study" / name)
    assert "told by their loss" not in report(tmp_path / "study").read_text()
    table = privacy(tmp_path / "study/one")
    page = report(tmp_path / "study").read_text()
    assert "told by their loss" in page
    worst = table.iloc[:-1].sort_values("auc").iloc[-1]
    assert page.count(f"{worst['client']} ({worst['auc']:.3f})") == 1
    assert f"{table.iloc[-1]['auc_low']:.3f}–{table.iloc[-1]['auc_high']:.3f}" in page
