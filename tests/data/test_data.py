"""From counts to batches: laws of the split, the gene choice and the preparation."""

import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from conftest import ROOT
from jobs import SPLIT, prepared, split_of
from scfl_green.data.agreement import Common, agree
from scfl_green.data.clients import by_client, chunks, dirichlet, iid
from scfl_green.data.dataset import Recipe, ask_again, load, prepare
from scfl_green.data.features.asked import AskedSums
from scfl_green.data.features.datamodule import Batches, CellDataModule
from scfl_green.data.features.prepare import CLIP, all_genes, between_within, between_within_ratio, highly_variable
from scfl_green.data.features.sums import GeneSums, normalise
from scfl_green.data.held_out import stratified_share
from scfl_green.data.partition import Part, Split
from scfl_green.data.questions import Survey
from scfl_green.data.reading import matrix
from scfl_green.data.reading.cells import Cells
from scfl_green.data.reading.file import Reading
from scfl_green.data.site import directly, in_memory
from scfl_green.data.sources import local as sources
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.federated.network import Simulated, before_training

SHARED = ROOT.parent / "shared/data"
CHOOSE = partial(between_within, n_genes=50)


def test_the_embedded_dataset_is_what_the_readme_says(pancreas: Cells) -> None:
    (path,) = sources.packaged("pancreas")
    adata = ad.read_h5ad(path)
    assert adata.shape[0] == len(pancreas) == 3274
    assert len(pancreas.types) == 9
    assert len(set(pancreas.donors)) == 20
    assert len(set(pancreas.clients)) == 4
    assert pancreas.genes[0].startswith("ENSG")
    assert "CC-BY" in adata.uns["license"]
    assert "doi.org" in adata.uns["citation"]


SPLITS = {
    "client": by_client,
    "iid": partial(iid, clients=7),
    "dirichlet": partial(dirichlet, clients=5, alpha=0.3),
    "chunks": partial(chunks, n_chunks=7, size=50, random_state=42),
}


def all_parts(split: Split) -> list[Part]:
    return [part for parts in vars(split).values() for part in parts.values()]


@pytest.mark.parametrize("newcomers", [0, 1])
@pytest.mark.parametrize("test", ["cells", "donors", 0])
@pytest.mark.parametrize("split", SPLITS)
def test_every_cell_is_in_exactly_one_place(few: Cells, split: str, test, newcomers: int) -> None:
    first = min(all_parts(SPLITS[split](few, **SPLIT)), key=lambda part: part.name).name
    made = SPLITS[split](few, **SPLIT | {"test": test or [first], "newcomers": newcomers})
    rows = np.concatenate([getattr(p, role) for p in all_parts(made) for role in ("train", "validation", "test")])
    assert np.array_equal(np.sort(rows), np.arange(len(few)))
    assert len(made.newcomers) == newcomers
    assert sum(len(part.test) for part in all_parts(made)) > 0


def test_held_out_donors_are_not_trained_on(pancreas: Cells) -> None:
    by_study = split_of(pancreas, test="donors")
    by_donor = by_client(replace(pancreas, clients=pancreas.donors), **SPLIT | {"test": "donors"})
    for split in (by_study, by_donor):
        tested = {donor for part in all_parts(split) for donor in pancreas.donors[part.test]}
        trained = {donor for part in all_parts(split) for donor in pancreas.donors[np.r_[part.train, part.validation]]}
        assert tested.isdisjoint(trained)
        assert len(tested) == 4
        assert len(tested | trained) == 20
    assert len(by_donor.tested) == 4
    assert not by_study.tested
    with pytest.raises(InputError, match=r"data\.donor_key"):
        split_of(replace(pancreas, donors=np.full(len(pancreas), "one")), test="donors")


def test_dirichlet_clients_differ_more_the_smaller_alpha(pancreas: Cells) -> None:
    def spread(alpha: float) -> float:
        parts = dirichlet(pancreas, clients=6, alpha=alpha, **SPLIT).clients.values()
        mixes = [np.bincount(pancreas.labels[p.train], minlength=9) / len(p.train) for p in parts]
        return float(np.std(mixes, axis=0).mean())

    assert spread(0.1) > 1.5 * spread(1.0) > 3 * spread(100.0)
    with pytest.raises(InputError, match=r"raise split\.alpha"):
        dirichlet(pancreas, clients=300, alpha=0.01, **SPLIT)


def test_a_split_is_stratified_and_depends_on_the_seed_alone(pancreas: Cells) -> None:
    split = split_of(pancreas)
    for part in split.clients.values():
        rows = np.concatenate([part.train, part.validation, part.test])
        assert len(part.test) == pytest.approx(0.2 * len(rows), abs=1)
        for label in range(len(pancreas.types)):
            held = (pancreas.labels[part.test] == label).sum()
            assert held == pytest.approx(0.2 * (pancreas.labels[rows] == label).sum(), abs=1)
    again, other = split_of(pancreas), split_of(pancreas, seed=2)
    name = next(iter(split.clients))
    assert np.array_equal(split.clients[name].test, again.clients[name].test)
    assert not np.array_equal(split.clients[name].test, other.clients[name].test)


def test_whole_clients_are_held_out(few: Cells) -> None:
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
def test_datasets_b_and_c_have_the_published_chunks() -> None:
    c = Cells.read([SHARED / "gse84133_human1.h5ad"], Reading("cell_type", min_cells_per_type=20))
    assert (len(c), len(c.types)) == (1895, 9)
    split = chunks(c, n_chunks=7, size=270, random_state=42, **SPLIT | {"test": ["7"], "newcomers": ["5", "6"]})
    assert [*split.clients, *split.newcomers, *split.tested] == list("1234567")
    order = pd.Series(range(1895)).sample(frac=1, random_state=42).to_numpy()
    first = split.clients["1"]
    assert set(order[:270]) == {*first.train, *first.validation}
    assert set(order[6 * 270 :]) == set(split.tested["7"].test)
    # The file of ranked genes holds the published study's own chunks, to compare ours with.
    b = Cells.read([SHARED / "gse113069_1000genes.h5ad"], Reading("cell_type", keep_empty=True))
    assert (len(b), len(b.types)) == (1190, 3)
    ranked = ad.read_h5ad(SHARED / "gse113069_2000ranked.h5ad").obs
    split = chunks(b, n_chunks=7, size=170, random_state=42, **SPLIT | {"test": ["7"]})
    for number, part in list(split.clients.items())[:5]:
        ours = np.bincount(b.labels[np.r_[part.train, part.validation]])
        assert list(ours) == list(ranked[ranked["chunk"] == number]["cell_type"].value_counts().sort_index())


def test_a_share_of_nothing_and_of_singletons() -> None:
    rng = np.random.default_rng(0)
    assert not stratified_share(np.arange(10), 0.0, rng).any()
    assert stratified_share(np.arange(100), 0.2, rng).sum() == 20


@pytest.mark.parametrize("kind", [GeneSums.linear, GeneSums.logged])
def test_sums_of_clients_are_those_of_the_pooled_cells_to_the_bit(pancreas: Cells, kind: Any) -> None:
    whole = kind(pancreas, np.arange(len(pancreas)), preprocess=True)
    parts = np.array_split(np.random.default_rng(0).permutation(len(pancreas)), 7)
    told = [kind(pancreas, rows, preprocess=True).packed() for rows in parts]
    first, *rest = (GeneSums.unpacked(one, 6500) for one in told)
    added = sum(rest, first)
    np.testing.assert_array_equal(added.n, whole.n)
    for one, other in zip(added.sums(), whole.sums(), strict=True):
        np.testing.assert_array_equal(one, other)
    values = normalise(pancreas.counts[:], preprocess=True)[int(kind == GeneSums.logged)].astype(np.float64)
    np.testing.assert_allclose(whole.sums()[0].sum(axis=0), np.asarray(values.sum(axis=0)).ravel(), rtol=1e-9)
    np.testing.assert_allclose(whole.sums()[1], np.asarray(values.power(2).sum(axis=0)).ravel(), rtol=1e-9)
    if kind == GeneSums.logged:
        of_type = np.stack([np.asarray(values[pancreas.labels == label].sum(axis=0)).ravel() for label in range(9)])
        np.testing.assert_allclose(whole.sums()[0], of_type, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("preprocess", [True, False])
def test_packed_sums_lose_nothing_and_hold_no_more_than_they_may(few: Cells, preprocess: bool) -> None:
    cells = few if preprocess else replace(few, counts=few.counts * np.float32(-1.7))
    sums = GeneSums.logged(cells, np.arange(len(cells)), preprocess)
    packed, n_genes = sums.packed(), few.counts.shape[1]
    for one, other in zip(sums.sums(), GeneSums.unpacked(packed, n_genes).sums(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert sum(array.nbytes for array in packed.values()) < (sums.values.nbytes + sums.squares.nbytes) / 3
    for hostile in ({"squares": packed["values"]}, {"n": packed["squares"]}, {"values": packed["values"][:-30]}):
        with pytest.raises((ValueError, zlib.error)):
            GeneSums.unpacked(packed | hostile, n_genes)


@pytest.mark.parametrize("choose", [CHOOSE, partial(highly_variable, n_genes=50), all_genes])
def test_a_federation_learns_over_messages_what_pooled_cells_teach(
    pancreas: Cells, meter: EnergyMeter, choose: Any
) -> None:
    split = iid(pancreas, clients=11, **SPLIT)
    ask = partial(before_training, Simulated(), meter=meter)
    dataset = prepared(pancreas, split, choose, standardise=True, ask=ask)
    together = Split({"all": Part.pooled(list(split.clients.values()))}, {})
    learnt = prepared(pancreas, together, choose, standardise=True).preparation
    for field in ("genes", "symbols", "mean", "scale"):
        np.testing.assert_array_equal(getattr(dataset.preparation, field), getattr(learnt, field))
    once = meter.moved()
    ask_again(Recipe(choose, ask=ask), dataset.asked)
    assert meter.moved() == tuple(2 * n for n in once)
    # A tenth of what two sums of 64 bits by type and gene would take; less if the genes are chosen first.
    assert once[0] < 11 * 2 * 9 * 6500 * 8 / (3 if choose is CHOOSE or choose is all_genes else 9)


@pytest.mark.filterwarnings("ignore")
def test_highly_variable_genes_are_scanpys(pancreas: Cells) -> None:
    scanpy = pytest.importorskip("scanpy")
    adata = ad.AnnData(pancreas.counts[:].copy())
    scanpy.pp.normalize_total(adata, target_sum=1e4)
    scanpy.pp.log1p(adata)
    scanpy.pp.highly_variable_genes(adata, n_top_genes=2000, flavor="seurat")
    none = np.empty(0, np.int64)
    whole = Part("all", train=np.arange(len(pancreas)), validation=none, test=none)
    survey = Survey(directly(in_memory(pancreas, {"all": whole}, preprocess=True)), ["all"])
    ours = highly_variable(AskedSums(survey, agree(survey, {}, Common()), ["all"]), 2000)
    np.testing.assert_array_equal(ours, np.flatnonzero(adata.var["highly_variable"]))


def test_counts_stored_by_gene_are_read_a_few_cells_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = sources.packaged("pancreas")
    adata = ad.read_h5ad(path)[::7].copy()
    adata.write_h5ad(by_cell := tmp_path / "by_cell.h5ad")
    adata.X = sparse.csc_matrix(adata.X)
    adata.write_h5ad(by_gene := tmp_path / "by_gene.h5ad")
    monkeypatch.setattr(matrix, "CSC_VALUES", adata.X.nnz // 5)
    monkeypatch.setattr(matrix, "BLOCK", 64)
    one, other = (Cells.read([file], Reading("cell_type", "Dataset")) for file in (by_cell, by_gene))
    assert (one.counts[:] != other.counts[:]).nnz == 0
    assert one.counts[:].nnz == other.counts[:].nnz == adata.X.nnz


def test_the_ratio_of_between_to_within_sums_is_the_definition(few: Cells) -> None:
    logged = np.log1p(normalise(few.counts[:], preprocess=True)[0].toarray().astype(np.float64))
    mean = logged.mean(axis=0)
    between, within = np.zeros(logged.shape[1]), np.zeros(logged.shape[1])
    for label in np.unique(few.labels):
        members = logged[few.labels == label]
        between += len(members) * (members.mean(axis=0) - mean) ** 2
        within += ((members - members.mean(axis=0)) ** 2).sum(axis=0)
    expected = np.divide(between, within, out=np.zeros_like(between), where=within > 1e-9)
    ours = between_within_ratio(GeneSums.logged(few, np.arange(len(few)), preprocess=True))
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-9)


def test_nothing_is_learnt_from_test_or_validation_cells(few: Cells) -> None:
    split = split_of(few)
    before = prepared(few, split, CHOOSE, standardise=True).preparation
    held_out = np.concatenate([rows for p in split.clients.values() for rows in (p.test, p.validation)])
    counts, labels = few.counts[:].tolil(), few.labels.copy()
    counts[held_out] = counts[held_out][:, ::-1] * 3
    labels[held_out] = (labels[held_out] + 1) % len(few.types)
    changed = replace(few, counts=sparse.csr_matrix(counts), labels=labels)
    after = prepared(changed, split, CHOOSE, standardise=True).preparation
    np.testing.assert_array_equal(before.genes, after.genes)
    np.testing.assert_array_equal(before.mean, after.mean)
    np.testing.assert_array_equal(before.scale, after.scale)


def test_standardised_training_cells_have_mean_zero_and_deviation_one(few: Cells) -> None:
    split = split_of(few)
    dataset = prepared(few, split, all_genes, standardise=True)
    rows = np.concatenate([p.train for p in split.clients.values()])
    dense = dataset.features[rows][0].numpy().astype(np.float64)
    clipped = np.abs(dense).max(axis=0) >= CLIP
    assert np.abs(dense).max() <= CLIP
    varying = (dense.std(axis=0) > 1e-6) & ~clipped
    np.testing.assert_allclose(dense[:, ~clipped].mean(axis=0), 0, atol=1e-5)
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
    split = split_of(few)
    dataset = prepared(few, split, CHOOSE)
    part = Part.pooled(list(split.clients.values()))
    x, y = next(iter(CellDataModule(dataset.features, part, 32, [0]).test_dataloader()))
    assert x.shape == (32, 50)
    assert str(x.dtype) == "torch.float32"
    assert np.array_equal(y.numpy(), few.labels[part.test[:32]])


def test_a_dataset_is_prepared_once_and_then_mapped(few: Cells) -> None:
    split = split_of(few)
    first = prepared(few, split, CHOOSE)
    again = load(first.folder)
    assert isinstance(again.features.values.data, np.memmap)
    for ours, theirs in zip(first.features[np.arange(50)], again.features[np.arange(50)], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for role in ("train", "validation", "test"):
        for one, other in zip(all_parts(split), all_parts(again.split), strict=True):
            np.testing.assert_array_equal(getattr(one, role), getattr(other, role))
    assert again.table().to_numpy().sum() == len(few)


def test_a_failed_preparation_leaves_nothing(few: Cells, tmp_path: Path) -> None:
    def broken(*_: object) -> GeneSums:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        prepare(few, split_of(few), tmp_path / "kept", Recipe(CHOOSE, ask=broken))
    assert not list(tmp_path.iterdir())


def test_each_seed_holds_out_another_whole_client(pancreas: Cells) -> None:
    held_out: Any = {"test": "client", "test_share": 0.2, "validation": 0.1, "newcomers": 0}
    splits = [by_client(pancreas, seed=seed, **held_out) for seed in range(1, 5)]
    assert sorted(name for split in splits for name in split.tested) == sorted(set(pancreas.clients))
    for split in splits:
        (part,) = split.tested.values()
        assert len(part.test) == (pancreas.clients == part.name).sum()
        assert not any(len(client.test) for client in split.clients.values())
