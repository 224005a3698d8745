"""Annotating new cells: the run's own answers on the same cells, whatever the file looks like."""

import json
import shutil
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy import sparse

import scfl_green
from conftest import compose_config
from jobs import ACTINN_CONFIG, as_adata, left_by, make_job
from scfl_green.cli import main
from scfl_green.data.reading import matrix
from scfl_green.data.reading.cells import Cells
from scfl_green.data.reading.file import Reading
from scfl_green.data.sources import local as sources
from scfl_green.energy.meter import EnergyMeter
from scfl_green.models.prune import pruned
from scfl_green.models.scores import prediction_scores
from scfl_green.runs.assemble import load_dataset
from scfl_green.runs.run import run
from scfl_green.share.annotation import Annotation
from scfl_green.training.calibrate import calibrate
from scfl_green.training.trained_model import TrainedModel

QUICK = ["federation.rounds=2", "federation.local_epochs=1", "data.n_genes=100", "logger=none", "trainer=cpu"]


@pytest.mark.parametrize(
    ("framework", "fraction"),
    [
        ("actinn", 0.4),
        ("scdlc", 0),
        ("sccdcg", 0),
        ("scsmd", 0.4),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [("actinn", 0), ("scdlc", 0.4), ("sccdcg", 0.4)]),
        pytest.param("scsmd", 0, marks=pytest.mark.slow),
    ],
)
def test_labels_are_those_of_the_jobs_own_test(
    few: Cells, meter: EnergyMeter, tmp_path: Path, framework: str, fraction: float
) -> None:
    config = OmegaConf.to_container(compose_config(tmp_path, f"model={framework}").model, resolve=True)
    job = make_job(few, meter, model=partial(instantiate, config, _convert_="all"))
    parts = list(job.split.clients.values())
    weights, _ = job.fit(parts[0], job.initial, epochs=2)
    if fraction:
        weights = pruned(weights, job.model.hidden_units(), fraction)
    left_by(job, few, config, weights, tmp_path / "model")
    predicted = [job.logits(part.test, weights) for part in parts]

    adata = as_adata(few)[:, ::-1].copy()
    scfl_green.load(str(tmp_path / "model")).annotate(adata)
    rows = np.concatenate([part.test for part in parts])
    logits, true = (torch.cat(tensors) for tensors in zip(*predicted, strict=True))
    labels = adata.obs["scfl_label"].cat.codes.to_numpy()[rows]
    np.testing.assert_array_equal(labels, logits.argmax(dim=1))
    right = adata.obs["scfl_label"].astype(str) == adata.obs["cell_type"].astype(str)
    assert right.iloc[rows].mean() == pytest.approx(prediction_scores(logits, true)["accuracy"], abs=1e-6)
    probabilities = adata.obsm["scfl_probabilities"].iloc[rows].to_numpy()
    np.testing.assert_allclose(probabilities, logits.softmax(dim=1), atol=1e-6)


@pytest.mark.parametrize(
    "how",
    [["regime=local", "opt=prune", "prune.after_epoch=1", "prune.after_round=1"], ["opt=mixed_precision"]],
    ids=str,
)
@pytest.mark.slow  # runs of their own; test_each_site has the plain one of regime=local
def test_a_runs_models_have_the_accuracy_that_it_recorded(tmp_path: Path, how: list[str]) -> None:
    record = run(cfg := compose_config(tmp_path, *how, *QUICK))
    split = load_dataset(cfg, sources.packaged("pancreas"), None, None).split
    sites, right = pd.read_csv(tmp_path / "run/sites.csv", index_col="site"), []
    for number, (name, part) in enumerate(split.clients.items(), start=1):
        adata = ad.read_h5ad(sources.packaged("pancreas")[0])[part.test].copy()
        folder = tmp_path / "run" / (f"site-{number}" if how[0] == "regime=local" else "")
        scfl_green.load(str(folder)).annotate(adata, prefix="")
        right.append((adata.obs["label"].astype(str) == adata.obs["cell_type"].astype(str)).to_numpy())
        assert right[-1].mean() == pytest.approx(sites.loc[name, "accuracy"], abs=1e-6)
    assert np.concatenate(right).mean() == pytest.approx(record["accuracy"], abs=1e-6)


@pytest.fixture(scope="module")
def adata(few: Cells) -> ad.AnnData:
    return as_adata(few)


@pytest.fixture(scope="module")
def expected(small_model: Path, adata: ad.AnnData) -> ad.AnnData:
    """The cells as they were read for training, annotated."""
    return scfl_green.load(str(small_model)).annotate(adata, copy=True)


def reordered(adata: ad.AnnData) -> ad.AnnData:
    return adata[:, np.random.default_rng(0).permutation(adata.n_vars)].copy()


def versioned(adata: ad.AnnData) -> ad.AnnData:
    changed = adata.copy()
    changed.var = pd.DataFrame(index=[f"{name}.{number % 9 + 1}" for number, name in enumerate(adata.var_names)])
    return changed


def by_symbol(adata: ad.AnnData) -> ad.AnnData:
    return ad.AnnData(adata.X, obs=adata.obs, var=pd.DataFrame(index=adata.var["feature_name"].to_numpy()))


def by_symbol_beside_ids(adata: ad.AnnData) -> ad.AnnData:
    changed = by_symbol(adata)
    changed.var["gene_ids"] = adata.var_names.to_numpy()
    return changed


def split_in_two(adata: ad.AnnData) -> ad.AnnData:
    """Each gene twice, with a part of its counts each."""
    half = sparse.csr_matrix((adata.X.data // 2, adata.X.indices, adata.X.indptr), adata.shape)
    changed = ad.AnnData(sparse.hstack([half, adata.X - half], format="csr"), obs=adata.obs)
    changed.var_names = [*adata.var_names, *adata.var_names]
    return changed


def in_a_layer(adata: ad.AnnData) -> ad.AnnData:
    changed = adata.copy()
    changed.layers["counts"], changed.X = adata.X, adata.X.log1p()
    return changed


def in_raw(adata: ad.AnnData) -> ad.AnnData:
    changed = adata.copy()
    changed.raw = adata
    changed = changed[:, :50].copy()
    changed.X = changed.X.log1p()
    return changed


def dense(adata: ad.AnnData) -> ad.AnnData:
    changed = adata.copy()
    changed.X = adata.X.toarray()
    return changed


def by_gene(adata: ad.AnnData) -> ad.AnnData:
    changed = adata.copy()
    changed.X = adata.X.tocsc()
    return changed


@pytest.mark.parametrize(
    "looks",
    [reordered, versioned, by_symbol, by_symbol_beside_ids, split_in_two, in_a_layer, in_raw, dense, by_gene],
    ids=lambda change: change.__name__,
)
@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_the_same_counts_give_the_same_bits(
    small_model: Path, adata: ad.AnnData, expected: ad.AnnData, looks: partial
) -> None:
    changed = looks(adata)
    counts = changed.X.copy()
    scfl_green.load(str(small_model)).annotate(changed)
    assert (counts != changed.X).sum() == 0
    about = changed.uns["scfl_annotation"]
    assert (about["genes_found"], len(about["genes_missing"])) == (100, 0)
    places = {"in_a_layer": "layers/counts", "in_raw": "raw/X"}
    assert about["counts_from"] == places.get(looks.__name__, "X")
    pd.testing.assert_frame_equal(changed.obs, expected.obs)
    pd.testing.assert_frame_equal(changed.obsm["scfl_probabilities"], expected.obsm["scfl_probabilities"])


@pytest.mark.parametrize("encoding", ["csr", "csc", "dense"])
def test_blocks_of_a_file_give_the_bits_of_the_whole(
    small_model: Path, adata: ad.AnnData, expected: ad.AnnData, tmp_path: Path, monkeypatch, encoding: str
) -> None:
    changed = {"csr": adata, "csc": by_gene(adata), "dense": dense(adata)}[encoding]
    changed.write_h5ad(path := tmp_path / "cells.h5ad")
    monkeypatch.setattr(matrix, "BLOCK", 50)
    monkeypatch.setattr(matrix, "DENSE_BLOCK_BYTES", 7 * 4 * adata.n_vars)
    backed = ad.read_h5ad(path, backed="r")
    scfl_green.load(str(small_model)).annotate(backed)
    pd.testing.assert_frame_equal(backed.obs, expected.obs)
    monkeypatch.chdir(tmp_path)
    main(["annotate", str(small_model), str(path), "--no-csv", "--no-page"])
    written = ad.read_h5ad(tmp_path / "cells.annotated.h5ad").obsm["scfl_probabilities"]
    pd.testing.assert_frame_equal(written, expected.obsm["scfl_probabilities"])


def test_missing_genes_count_as_zero_and_are_told(small_model: Path, adata: ad.AnnData) -> None:
    model = scfl_green.load(str(small_model))
    absent = model.trained.preparation.genes[[0, 5, 40]]
    zero = adata.copy()
    zero.X = zero.X.multiply(~adata.var_names.isin(absent)).tocsr()
    lacking = adata[:, ~adata.var_names.isin(absent)].copy()
    model.annotate(zero)
    model.annotate(lacking)
    np.testing.assert_array_equal(lacking.obsm["scfl_probabilities"], zero.obsm["scfl_probabilities"])
    about = lacking.uns["scfl_annotation"]
    assert (about["genes_found"], list(about["genes_missing"])) == (97, list(absent))


def test_a_calibrated_model_tells_sets_and_what_is_new(few: Cells, meter: EnergyMeter, tmp_path: Path) -> None:
    job = make_job(few, meter)
    parts = list(job.split.clients.values())
    weights, _ = job.fit(parts[0], job.initial, epochs=2)
    calibration = calibrate(job, weights, parts)
    left_by(job, few, ACTINN_CONFIG, weights, tmp_path / "model", calibration=calibration)
    adata = as_adata(few)
    model = scfl_green.load(str(tmp_path / "model"))
    model.annotate(adata, coverage=0.8, by_type=True, alpha=0.3)
    probabilities = calibration.probabilities(job.logits(np.arange(len(few)), weights)[0])
    np.testing.assert_allclose(adata.obsm["scfl_probabilities"], probabilities, atol=1e-6)
    sets = calibration.prediction_sets(probabilities, 0.8, by_type=True).numpy()
    assert adata.obs["scfl_set"].tolist() == ["|".join(np.array(few.types)[of_cell]) for of_cell in sets]
    p = torch.cat([calibration.novelty_p(x) for x, _ in job.batches(np.arange(len(few)))]).numpy()
    np.testing.assert_allclose(adata.obs["scfl_novelty_p"], p, atol=1e-6)
    expressed = adata[:, model.trained.preparation.genes].X.getnnz(axis=1) > 0
    refused = ~sets.any(axis=1) | (p < 0.3)
    assert 0 < refused.mean() < 0.5
    assert ((adata.obs["scfl_call"] == "unassigned") == (refused | ~expressed)).all()
    about = adata.uns["scfl_annotation"]
    assert (about["coverage"], about["coverage_by_type"], about["alpha"]) == (0.8, True, 0.3)
    assert (about["temperature"], about["calibration_cells"]) == (calibration.temperature, calibration.n_cells)


def test_a_notebook_keeps_its_cells_and_its_random_numbers(small_model: Path, adata: ad.AnnData) -> None:
    before, numbers = adata.copy(), torch.get_rng_state()
    model = scfl_green.load(str(small_model))
    annotated = model.annotate(adata, copy=True, prefix="my_", country="FRA")
    assert torch.equal(torch.get_rng_state(), numbers)
    assert adata.obs.equals(before.obs)
    assert not adata.obsm
    assert (adata.X != before.X).nnz == 0
    obs, probabilities = annotated.obs, annotated.obsm["my_probabilities"]
    assert list(probabilities.columns) == list(model.trained.types)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(obs["my_confidence"], probabilities.max(axis=1))
    second = np.sort(probabilities.to_numpy(), axis=1)[:, -2]
    np.testing.assert_allclose(obs["my_margin"], obs["my_confidence"] - second, atol=1e-7)
    assert (probabilities.to_numpy()[np.arange(len(obs)), obs["my_second_best"].cat.codes] == second).all()
    about = annotated.uns["my_annotation"]
    assert (about["country"], about["model"]) == ("FRA", "small-model")
    assert about["model_sha256"] == model.trained.sha256
    assert about["emissions_g"] > 0
    assert model.annotate(adata[:20].copy()) is None


def test_empty_cells_are_called_unassigned(small_model: Path, adata: ad.AnnData) -> None:
    some = adata[:30].copy()
    some.X = sparse.diags([0.0] * 4 + [1.0] * 26).tocsr().dot(some.X).astype(np.float32)
    scfl_green.load(str(small_model)).annotate(some)
    assert (some.obs["scfl_call"] == "unassigned").tolist() == [True] * 4 + [False] * 26
    assert (some.obs["scfl_call"][4:].astype(str) == some.obs["scfl_label"][4:].astype(str)).all()


def test_clusters_have_the_majority_of_their_labels(small_model: Path, adata: ad.AnnData) -> None:
    some = adata.copy()
    clusters = np.random.default_rng(0).integers(0, 7, len(some)).astype(float)
    clusters[:3] = np.nan
    some.obs["leiden"] = pd.Categorical(pd.Series(clusters).astype("Int64").astype(str).replace("<NA>", None))
    scfl_green.load(str(small_model)).annotate(some, clusters="leiden")
    for cluster, cells in some.obs.groupby("leiden", observed=True):
        shares = cells["scfl_label"].value_counts(normalize=True)
        assert cells["scfl_cluster_label"].nunique() == 1, cluster
        assert shares[cells["scfl_cluster_label"].iloc[0]] == shares.max()
        np.testing.assert_allclose(cells["scfl_cluster_fraction"], shares.max(), rtol=1e-6)
    assert some.obs[["scfl_cluster_label", "scfl_cluster_fraction"]][:3].isna().all(axis=None)


def test_a_file_gets_columns_a_table_and_a_page(
    small_model: Path, adata: ad.AnnData, expected: ad.AnnData, tmp_path: Path, monkeypatch, capsys
) -> None:
    given = adata.copy()
    given.obsm["X_umap"] = np.random.default_rng(0).normal(size=(len(given), 2))
    given.uns["mine"], given.layers["counts"] = "kept", given.X
    given.write_h5ad(tmp_path / "my cells.h5ad")
    before = (tmp_path / "my cells.h5ad").read_bytes()
    monkeypatch.chdir(tmp_path)
    words = ["annotate", str(small_model), "my cells.h5ad", "--label-key", "cell_type"]
    main(words)
    assert (tmp_path / "my cells.h5ad").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "my cells.annotated.csv", "my cells.annotated.h5ad", "my cells.annotated.html", "my cells.h5ad"
    ]  # fmt: skip
    written = ad.read_h5ad("my cells.annotated.h5ad")
    pd.testing.assert_frame_equal(written.obs[expected.obs.columns], expected.obs, check_categorical=False)
    assert (written.X != given.X).nnz == (written.layers["counts"] != given.X).nnz == 0
    assert written.uns["mine"] == "kept"
    assert written.uns["scfl_annotation"]["counts_from"] == "layers/counts"
    table = pd.read_csv("my cells.annotated.csv", index_col="cell")
    assert (table["scfl_label"] == expected.obs["scfl_label"]).all()
    page = Path("my cells.annotated.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page
    alike = (expected.obs["scfl_label"].astype(str) == expected.obs["cell_type"].astype(str)).mean()
    assert f"{100 * alike:.1f}% of them are labelled alike" in page
    assert "annotating" not in capsys.readouterr().err  # no bar but on a terminal

    with pytest.raises(SystemExit, match="is there already"):
        main(words)
    main([*words, "--overwrite", "--in-place", "--no-page"])
    again = ad.read_h5ad("my cells.h5ad")
    pd.testing.assert_frame_equal(again.obs, written.obs)


def test_ids_of_types_travel_with_the_model(few: Cells, meter: EnergyMeter, tmp_path: Path) -> None:
    adata = as_adata(few)
    adata.obs["cell_type_ontology_term_id"] = "CL:" + pd.Series(few.labels, adata.obs_names).astype(str).str.zfill(7)
    of_type = {name: np.flatnonzero(few.labels == number) for number, name in enumerate(few.types)}
    column = adata.obs.columns.get_loc("cell_type_ontology_term_id")
    adata.obs.iloc[of_type["macrophage"][0], column] = "CL:0000099"
    adata.obs.iloc[of_type["endothelial cell"], column] = "unknown"
    adata.write_h5ad(tmp_path / "cells.h5ad")
    cells = Cells.read([tmp_path / "cells.h5ad"], Reading("cell_type", "site"))
    assert cells.type_ids == (None, None, *(f"CL:{number:07}" for number in range(2, 9)))
    assert "cell types with several Cell Ontology ids, of which none is kept: macrophage" in cells.notes
    job = make_job(cells, meter)
    left_by(job, cells, ACTINN_CONFIG, job.initial, tmp_path / "model")
    annotated = scfl_green.load(str(tmp_path / "model")).annotate(adata, copy=True)
    ids = annotated.obs["scfl_ontology_term_id"]
    expected = pd.Series(cells.type_ids, dtype=object)[annotated.obs["scfl_label"].cat.codes]
    assert (ids.astype(object).fillna("") == expected.fillna("").to_numpy()).all()


def test_a_model_of_an_earlier_version_still_annotates(small_model: Path, adata: ad.AnnData, tmp_path: Path) -> None:
    shutil.copytree(small_model, old := tmp_path / "old")
    about = json.loads((old / "model.json").read_text())
    for later in ("cell_type_ids", "precision", "n_genes_read"):
        del about[later]
    (old / "model.json").write_text(json.dumps(about))
    assert TrainedModel.load(str(old)).type_ids == (None,) * 9
    annotated = scfl_green.load(str(old)).annotate(adata[:50].copy(), copy=True)
    assert "scfl_ontology_term_id" not in annotated.obs


def test_names_of_types_have_no_slash_where_hdf5_has_none() -> None:
    types = ("T/NK cell", "B cell", "T|NK cell")
    frames = [
        Annotation(pd.DataFrame(), np.ones((2, len(names)), np.float32), names, {}, (), "").frame(pd.Index(["a", "b"]))
        for names in (types[:2], types)
    ]
    assert [list(frame) for frame in frames] == [["T|NK cell", "B cell"], ["T|NK cell 1", "B cell 2", "T|NK cell 3"]]
