"""From counts to batches: laws of the split, the gene choice and the preparation."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scfl_green.data import sources
from scfl_green.data.cells import Cells
from scfl_green.data.datamodule import Batches, CellDataModule
from scfl_green.data.dataset import prepare
from scfl_green.data.partition import Part, by_client, iid, stratified_share
from scfl_green.data.prepare import (
    GeneSums,
    all_genes,
    between_within,
    between_within_ratio,
    highly_variable,
    normalise,
)
from scfl_green.errors import InputError

SHARED = Path(__file__).parents[2] / "shared/data"
SPLIT = {"test": 0.2, "validation": 0.1, "newcomers": 0, "seed": 1}
CHOOSE = partial(between_within, n_genes=50)


def test_the_embedded_dataset_is_what_the_readme_says(pancreas: Cells) -> None:
    adata = sources.packaged("pancreas")
    assert adata.shape[0] == len(pancreas) == 3274
    assert len(pancreas.types) == 9
    assert adata.obs["donor_id"].nunique() == 20
    assert len(set(pancreas.clients)) == 4
    assert adata.var_names[0].startswith("ENSG")
    assert "CC-BY" in adata.uns["license"]
    assert "doi.org" in adata.uns["citation"]


@pytest.mark.parametrize("newcomers", [0, 1, ["Muraro et al. 2016"]])
@pytest.mark.parametrize("split", [by_client, partial(iid, clients=7)])
def test_every_cell_is_in_exactly_one_place(few: Cells, split, newcomers) -> None:
    if isinstance(newcomers, list) and split is not by_client:
        newcomers = ["client-3"]
    made = split(few, **SPLIT | {"newcomers": newcomers})
    parts = [*made.clients.values(), *made.newcomers.values()]
    rows = np.concatenate([rows for part in parts for rows in (part.train, part.validation, part.test)])
    assert np.array_equal(np.sort(rows), np.arange(len(few)))
    assert len(made.newcomers) == (1 if newcomers else 0)


def test_a_split_is_stratified_and_depends_on_the_seed_alone(pancreas: Cells) -> None:
    split = by_client(pancreas, **SPLIT)
    for part in split.clients.values():
        rows = np.concatenate([part.train, part.validation, part.test])
        assert len(part.test) == pytest.approx(0.2 * len(rows), abs=1)
        for label in range(len(pancreas.types)):
            held = (pancreas.labels[part.test] == label).sum()
            assert held == pytest.approx(0.2 * (pancreas.labels[rows] == label).sum(), abs=1)
    again, other = by_client(pancreas, **SPLIT), by_client(pancreas, **SPLIT | {"seed": 2})
    name = next(iter(split.clients))
    assert np.array_equal(split.clients[name].test, again.clients[name].test)
    assert not np.array_equal(split.clients[name].test, other.clients[name].test)


def test_whole_clients_are_kept_for_the_test(few: Cells) -> None:
    split = by_client(few, **SPLIT | {"test": ["Muraro et al. 2016"], "newcomers": ["Tosti et al. 2021"]})
    (tested,) = split.tested.values()
    assert np.array_equal(tested.test, np.flatnonzero(few.clients == "Muraro et al. 2016"))
    assert len(split.clients) == 2
    parts = [*split.clients.values(), *split.newcomers.values()]
    assert not any(len(part.test) for part in parts)
    assert split.to_test(parts) == [tested]
    with pytest.raises(InputError, match=r"split\.test names Nobody"):
        by_client(few, **SPLIT | {"test": ["Nobody"]})


@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared files")
def test_dataset_c_is_cut_as_the_study_cut_it() -> None:
    adata = sources.shuffled_chunks(str(SHARED / "gse84133_human1.h5ad"), 7, 270, 42, 20)
    assert adata.n_obs == 1895
    assert adata.obs["cell_type"].nunique() == 9
    assert list(adata.obs["chunk"].value_counts().sort_index()) == [270] * 6 + [275]
    shuffled = adata.obs.sample(frac=1, random_state=42)
    assert (shuffled["chunk"].iloc[:270] == 1).all()


def test_a_share_of_nothing_and_of_singletons() -> None:
    rng = np.random.default_rng(0)
    assert not stratified_share(np.arange(10), 0.0, rng).any()
    assert stratified_share(np.arange(100), 0.2, rng).sum() == 20


def test_sums_of_clients_are_those_of_the_pooled_cells(few: Cells) -> None:
    normalised = normalise(few.counts)
    pooled = GeneSums.of(normalised, few.labels, len(few.types))
    parts = np.array_split(np.random.default_rng(0).permutation(len(few)), 5)
    first, *rest = (GeneSums.of(normalised[rows], few.labels[rows], len(few.types)) for rows in parts)
    added = sum(rest, first)
    np.testing.assert_array_equal(added.n, pooled.n)
    np.testing.assert_allclose(added.logged, pooled.logged, rtol=1e-12)
    np.testing.assert_allclose(added.linear, pooled.linear, rtol=1e-12)
    for choose in (highly_variable, between_within):
        np.testing.assert_array_equal(choose(added, 500), choose(pooled, 500))


@pytest.mark.filterwarnings("ignore")
def test_highly_variable_genes_are_scanpys(pancreas: Cells) -> None:
    scanpy = pytest.importorskip("scanpy")
    normalised = normalise(pancreas.counts)
    adata = ad.AnnData(normalised.copy())
    scanpy.pp.log1p(adata)
    scanpy.pp.highly_variable_genes(adata, n_top_genes=2000, flavor="seurat")
    ours = highly_variable(GeneSums.of(normalised, pancreas.labels, len(pancreas.types)), 2000)
    np.testing.assert_array_equal(ours, np.flatnonzero(adata.var["highly_variable"]))


def test_the_ratio_of_between_to_within_sums_is_the_definition(few: Cells) -> None:
    normalised = normalise(few.counts)
    logged = np.log1p(normalised.toarray().astype(np.float64))
    mean = logged.mean(axis=0)
    between, within = np.zeros(logged.shape[1]), np.zeros(logged.shape[1])
    for label in np.unique(few.labels):
        members = logged[few.labels == label]
        between += len(members) * (members.mean(axis=0) - mean) ** 2
        within += ((members - members.mean(axis=0)) ** 2).sum(axis=0)
    expected = np.divide(between, within, out=np.zeros_like(between), where=within > 1e-9)
    ours = between_within_ratio(GeneSums.of(normalised, few.labels, len(few.types)))
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-9)


def test_nothing_is_learnt_from_test_or_validation_cells(few: Cells) -> None:
    split = by_client(few, **SPLIT)
    before = prepare(few, split, CHOOSE, standardise=True).preparation
    held_out = np.concatenate([rows for p in split.clients.values() for rows in (p.test, p.validation)])
    counts, labels = few.counts.tolil(), few.labels.copy()
    counts[held_out] = counts[held_out][:, ::-1] * 3
    labels[held_out] = (labels[held_out] + 1) % len(few.types)
    changed = replace(few, counts=sparse.csr_matrix(counts), labels=labels)
    after = prepare(changed, split, CHOOSE, standardise=True).preparation
    np.testing.assert_array_equal(before.genes, after.genes)
    np.testing.assert_array_equal(before.mean, after.mean)
    np.testing.assert_array_equal(before.scale, after.scale)


def test_standardised_training_cells_have_mean_zero_and_deviation_one(few: Cells) -> None:
    split = by_client(few, **SPLIT)
    dataset = prepare(few, split, all_genes, standardise=True)
    rows = np.concatenate([p.train for p in split.clients.values()])
    dense = dataset.features.logged[rows].toarray().astype(np.float64)
    dense = (dense - dataset.preparation.mean) / dataset.preparation.scale
    varying = dense.std(axis=0) > 0
    np.testing.assert_allclose(dense.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(dense[:, varying].std(axis=0, ddof=1), 1, atol=1e-4)


def test_batches_cover_each_cell_once_an_epoch_in_an_order_of_seed_and_epoch() -> None:
    rows = np.arange(5, 108)
    batches = Batches(rows, 10, seed=[1, 2])
    first = np.concatenate(list(batches))
    assert len(batches) == len(list(batches)) == 11
    assert np.array_equal(np.sort(first), rows)
    assert np.array_equal(first, np.concatenate(list(batches)))
    batches.set_epoch(1)
    assert not np.array_equal(first, np.concatenate(list(batches)))
    assert np.array_equal(np.concatenate(list(Batches(rows, 10))), rows)


def test_a_batch_is_sliced_whole(few: Cells) -> None:
    split = by_client(few, **SPLIT)
    dataset = prepare(few, split, CHOOSE, standardise=False)
    part = Part.pooled(list(split.clients.values()))
    x, y = next(iter(CellDataModule(dataset.features, part, 32, [0]).test_dataloader()))
    assert x.shape == (32, 50)
    assert str(x.dtype) == "torch.float32"
    assert np.array_equal(y.numpy(), few.labels[part.test[:32]])


def adata_of(counts: np.ndarray, **obs: list) -> ad.AnnData:
    index = [f"c{i}" for i in range(len(counts))]
    return ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=pd.DataFrame(obs, index=index))


GOOD = np.array([[1, 2], [3, 0], [0, 4]])


@pytest.mark.parametrize(
    ("adata", "said"),
    [
        (adata_of(GOOD, other=["a", "b", "a"]), "data.label_key=type: no such column"),
        (adata_of(GOOD, type=["a", None, "b"]), "1 of 3 cells have no value"),
        (adata_of(GOOD, type=["a", "a", "a"]), "at least two"),
        (adata_of(GOOD * 0.5, type=["a", "b", "a"]), "raw counts are expected"),
        (adata_of(-GOOD, type=["a", "b", "a"]), "raw counts are expected"),
        (adata_of(GOOD * [[1], [0], [1]], type=["a", "b", "a"]), "1 of 3 cells have no counts"),
    ],
)
def test_wrong_data_is_refused_with_a_reason(adata: ad.AnnData, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Cells.from_anndata(adata, "type", None)


def test_files_that_are_missing_or_broken(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="SCFL_DATA"):
        sources.h5ad(str(tmp_path / "none.h5ad"))
    (tmp_path / "broken.h5ad").write_bytes(b"not HDF5")
    monkeypatch.setenv("SCFL_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"broken\.h5ad"):
        sources.h5ad("broken.h5ad")
