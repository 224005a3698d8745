"""Sources of datasets: downloads from a local server, several files with different genes, synthetic cells."""

import gzip
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hydra.utils import instantiate

from conftest import ROOT, compose_config
from jobs import prepared, split_of
from scfl_green.data.features.prepare import all_genes
from scfl_green.data.reading.cells import Cells
from scfl_green.data.reading.file import Reading
from scfl_green.data.sources import local as sources
from scfl_green.data.sources import synthetic
from scfl_green.errors import InputError
from scfl_green.runs.run import run

SHARED = ROOT.parent / "shared/data"
PANCREAS = ROOT / "src/scfl_green/data/packaged/pancreas.h5ad"
QUICK = ["federation.rounds=1", "federation.local_epochs=1", "data.n_genes=100", "logger=none", "trainer=cpu"]


class Server(ThreadingHTTPServer):
    """Serves ``files`` by path; ``failures`` are those of the next replies to a path, in turn."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.failures: dict[str, list[str]] = {}
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["Range"]))
        failures = self.server.failures.get(self.path, [])
        failure = failures.pop(0) if failures else ""
        if failure.isdigit() or self.path not in self.server.files:
            self.send_response(int(failure or 404))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body, start = self.server.files[self.path], 0
        if asked := self.headers["Range"]:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        half = start + (len(body) - start) // 2
        self.wfile.write(body[start : half if failure == "breaks off" else None])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def collection(server: Server, dataset: str, size: int, path: str) -> bytes:
    other = {"dataset_id": "other", "assets": []}
    assets = [
        {"filetype": "RDS", "filesize": 1, "url": "x"},
        {"filetype": "H5AD", "filesize": size, "url": server.url + path},
    ]
    return json.dumps({"datasets": [other, {"dataset_id": dataset, "assets": assets}]}).encode()


def dataset_a(folder: Path, server: Server, *more: str) -> list[Path]:
    where = [f"data.source.fetch.resolve.api={server.url}/curation/v1", f"paths.cache={folder}/cache"]
    cfg = compose_config(folder, "data=dataset_a", *where, *more)
    return instantiate(cfg.data.source, _partial_=True, _convert_="all")()


@pytest.fixture
def published(server: Server) -> Server:
    """The curation API's answer for dataset A, and a file at the address that it names."""
    api = "/curation/v1/collections/e1a9ca56-f2ee-435d-980a-4f49ab7a952b"
    server.files["/a.h5ad"] = PANCREAS.read_bytes()
    server.files[api] = collection(server, "d18736c3-6292-4379-919a-d6d973204c87", PANCREAS.stat().st_size, "/a.h5ad")
    server.api = api
    return server


@pytest.mark.parametrize(
    "failures",
    [[], ["503"], ["503", "503"], ["breaks off"], ["breaks off", "503", "breaks off"], ["404"], ["410"]],
    ids=lambda failures: ",".join(failures) or "well",
)
def test_a_dataset_is_resolved_downloaded_whole_and_cached(
    tmp_path: Path, published: Server, failures: list[str]
) -> None:
    published.failures["/a.h5ad"] = list(failures)
    (path,) = dataset_a(tmp_path, published)
    assert path.read_bytes() == PANCREAS.read_bytes()
    assert [file.name for file in path.parent.iterdir() if file.suffix != ".lock"] == ["dataset_a.h5ad"]
    asked = len(published.asked)
    assert dataset_a(tmp_path, published) == [path]
    assert len(published.asked) == asked
    resumed = [range_ for _, range_ in published.asked if range_]
    assert len(resumed) >= failures.count("breaks off")


def test_a_rotated_address_is_asked_for_again(tmp_path: Path, published: Server) -> None:
    size, body = PANCREAS.stat().st_size, published.files.pop("/a.h5ad")
    published.files["/moved.h5ad"] = body
    answers = iter(["/a.h5ad", "/moved.h5ad"])

    class Rotating(dict):
        def __getitem__(self, key: str) -> bytes:
            if key == published.api:
                return collection(published, "d18736c3-6292-4379-919a-d6d973204c87", size, next(answers))
            return super().__getitem__(key)

    published.files = Rotating(published.files)
    (path,) = dataset_a(tmp_path, published)
    assert path.read_bytes() == body


def test_a_broken_download_resumes_in_the_next_run(tmp_path: Path, published: Server) -> None:
    published.failures["/a.h5ad"] = ["breaks off"] * 5
    with pytest.raises(InputError, match="a partial download is kept"):
        dataset_a(tmp_path, published)
    kept = (tmp_path / "cache/.dataset_a.h5ad.part").stat().st_size
    assert kept > 0.9 * PANCREAS.stat().st_size
    dataset_a(tmp_path, published)
    assert published.asked[-1] == ("/a.h5ad", f"bytes={kept}-")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.files.pop("/a.h5ad"), "404"),
        (lambda s: s.failures.update({"/a.h5ad": ["503"] * 20}), "503"),
        (lambda s: s.files.update({"/a.h5ad": b"short"}), "5 bytes arrived where 4,9"),
        (lambda s: s.files.update({s.api: b"{}"}), "datasets"),
        (lambda s: s.files.update({s.api: b"<html>"}), "could not fetch dataset_a"),
        (lambda s: s.files.update({s.api: collection(s, "else", 1, "/")}), "has no h5ad file of dataset d18736c3"),
        (lambda s: s.files.pop(s.api), "404"),
    ],
)
def test_a_failed_download_names_the_way_out(tmp_path: Path, published: Server, spoil, message: str) -> None:
    spoil(published)
    with pytest.raises(InputError, match=r"data\.path=") as raised:
        dataset_a(tmp_path, published)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "cache/dataset_a.h5ad").exists()


def test_a_wrong_checksum_is_refused(tmp_path: Path, published: Server) -> None:
    right = hashlib.sha256(PANCREAS.read_bytes()).hexdigest()
    with pytest.raises(InputError, match="hash"):
        dataset_a(tmp_path, published, f"data.source.fetch.sha256={'0' * 64}")
    assert not (tmp_path / "cache/dataset_a.h5ad").exists()
    assert dataset_a(tmp_path, published, f"data.source.fetch.sha256={right}")


def test_without_network_the_address_and_the_way_out_are_named(tmp_path: Path, server: Server) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(InputError, match=r"108,717 cells x 21,648 genes, .*127\.0\.0\.1.* data\.path=FILE\.h5ad"):
        dataset_a(tmp_path, server)


def test_a_file_brought_by_hand_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dataset_a.h5ad").write_bytes(PANCREAS.read_bytes())
    cfg = compose_config(tmp_path, "data=dataset_a", f"data.path={PANCREAS}")
    assert instantiate(cfg.data.source) == [PANCREAS]
    monkeypatch.setenv("SCFL_DATA", str(tmp_path))
    cfg = compose_config(tmp_path, "data=dataset_a")
    assert instantiate(cfg.data.source) == [tmp_path / "dataset_a.h5ad"]


def table_of(adata: ad.AnnData, **columns: np.ndarray) -> bytes:
    table = pd.DataFrame(adata.X.toarray().astype(int), index=adata.obs_names, columns=adata.var_names)
    for place, (name, values) in enumerate(columns.items()):
        table.insert(place, name, values)
    return gzip.compress(table.to_csv().encode())


@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared files")
def test_dataset_c_is_built_from_geos_archive(tmp_path: Path, server: Server) -> None:
    real = ad.read_h5ad(SHARED / "gse84133_human1.h5ad")[:, ::40].copy()
    member = table_of(real, barcode=np.full(real.n_obs, "ACGT"), assigned_cluster=real.obs["cell_type"].to_numpy())
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, body in [("GSM1.csv.gz", b""), ("GSM2230757_human1_umifm_counts.csv.gz", member)]:
            about = tarfile.TarInfo(name)
            about.size = len(body)
            tar.addfile(about, io.BytesIO(body))
    server.files["/GSE84133_RAW.tar"] = archive.getvalue()
    where = f"data.source.fetch.archive.resolve.url={server.url}/GSE84133_RAW.tar"
    cfg = compose_config(tmp_path, "data=dataset_c", where, f"paths.cache={tmp_path}/cache")
    (path,) = instantiate(cfg.data.source, _convert_="all")
    assert [file.name for file in path.parent.iterdir() if file.suffix != ".lock"] == ["gse84133_human1.h5ad"]
    built = Cells.read([path], Reading("cell_type", min_cells_per_type=20, keep_empty=True))
    assert (len(built), len(built.types)) == (1895, 9)
    kept = real[real.obs["cell_type"].isin(built.types)]
    np.testing.assert_array_equal(built.counts[:].toarray(), kept.X.toarray())
    assert [built.types[label] for label in built.labels] == kept.obs["cell_type"].to_list()


@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared files")
@pytest.mark.parametrize("turned", [False, True], ids=["a row a cell", "a column a cell"])
def test_dataset_b_is_built_from_scdlcs_release(tmp_path: Path, server: Server, turned: bool) -> None:
    real = ad.read_h5ad(SHARED / "gse113069_1000genes.h5ad")[:, :50].copy()
    body = table_of(real, label=real.obs["cell_type"].str.removeprefix("class ").astype(int).to_numpy())
    if turned:
        body = gzip.compress(pd.read_csv(io.BytesIO(gzip.decompress(body)), index_col=0).T.to_csv().encode())
    asset = {"name": "GSE113069.csv.gz", "size": len(body), "browser_download_url": f"{server.url}/b"}
    asset["digest"] = f"sha256:{hashlib.sha256(body).hexdigest()}"
    release = {"assets": [{"name": "GSE1.csv"}, asset]}
    server.files |= {"/b": body, "/repos/scDLC-code/scDLC/releases/tags/Data": json.dumps(release).encode()}
    where = [f"data.source.fetch.archive.resolve.api={server.url}", f"paths.cache={tmp_path}/cache"]
    cfg = compose_config(tmp_path, "data=dataset_b", *where)
    (path,) = instantiate(cfg.data.source, _convert_="all")
    built = Cells.read([path], Reading("cell_type", keep_empty=True))
    assert (len(built), built.types) == (1190, ("class 1", "class 2", "class 3"))
    np.testing.assert_array_equal(built.counts[:].toarray(), real.X.toarray())
    wrong = compose_config(tmp_path, "data=dataset_b", *where, "data.source.fetch.types=4", "data.source.file=x.h5ad")
    with pytest.raises(InputError, match="1190 cells of 3 types were built"):
        instantiate(wrong.data.source, _partial_=True, _convert_="all")()
    assert not (tmp_path / "cache/x.h5ad").exists()


def sites(folder: Path, pancreas: Cells) -> tuple[list[Path], ad.AnnData]:
    """Two sites of the same cells' halves: other orders of genes, other genes missing, versions, a gene twice."""
    counts = pancreas.counts[::8][:, :200]
    obs = pd.DataFrame({"cell_type": [pancreas.types[label] for label in pancreas.labels[::8]]}).astype(str)
    obs.index = [f"cell{i}" for i in range(len(obs))]
    var = pd.DataFrame({"feature_name": pancreas.symbols[:200]}, index=pd.Index(pancreas.genes[:200].astype(str)))
    whole = ad.AnnData(counts, obs=obs, var=var)
    one, other = whole[::2, 10:].copy(), whole[1::2, ::-1][:, 5:].copy()
    one.var_names = [f"{name}.{number % 7}" for number, name in enumerate(one.var_names)]
    extra = one[:, [0]].copy()
    extra.var_names = [one.var_names[0].split(".")[0] + ".9"]
    one = ad.concat([one, extra], axis=1, merge="first")
    paths = [folder / "one.h5ad", folder / "other.h5ad"]
    one.write_h5ad(paths[0])
    other.write_h5ad(paths[1])
    return paths, whole


def test_genes_are_matched_by_name_whatever_their_order(tmp_path: Path, pancreas: Cells) -> None:
    paths, whole = sites(tmp_path, pancreas)
    reading = Reading("cell_type", None, keep_empty=True)
    cells, turned = Cells.read(paths, reading), Cells.read(paths[::-1], reading)
    assert list(cells.genes) == sorted(whole.var_names)
    assert set(cells.clients) == {"one", "other"}
    expected = whole[:, list(cells.genes)].X.toarray()
    ours = cells.counts[:].toarray()
    here = np.isin(cells.genes, whole.var_names[10:])
    doubled = cells.genes == whole.var_names[10]
    np.testing.assert_array_equal(ours[cells.clients == "one"][:, here & ~doubled], expected[::2][:, here & ~doubled])
    np.testing.assert_array_equal(ours[cells.clients == "one"][:, doubled], 2 * expected[::2][:, doubled])
    assert not ours[cells.clients == "one"][:, ~here].any()
    np.testing.assert_array_equal(turned.genes, cells.genes)
    np.testing.assert_array_equal(turned.counts[turned.clients == "other"].toarray(), ours[cells.clients == "other"])
    notes = " ".join(cells.notes)
    assert "one: 1 of 191 genes have a duplicate name; their counts are added up" in notes
    assert "185 of 200 are in all files; 10 are missing in one, 5 are missing in other" in notes


def test_a_gene_without_a_symbol_goes_by_its_id(tmp_path: Path, pancreas: Cells) -> None:
    paths, _ = sites(tmp_path, pancreas)
    other = ad.read_h5ad(paths[1])
    other.var["feature_name"] = [None if number % 2 else name for number, name in enumerate(other.var["feature_name"])]
    other.write_h5ad(paths[1])
    symbols = ad.read_h5ad(paths[0])
    symbols.var_names = symbols.var.pop("feature_name").astype(str)
    symbols.write_h5ad(paths[0])
    cells = Cells.read(paths, Reading("cell_type", keep_empty=True, min_gene_overlap=0.3))
    assert "nan" not in cells.genes
    assert sum(name.startswith("ENSG") for name in cells.genes) == 97


def test_the_same_cells_at_two_sites_are_refused(tmp_path: Path, pancreas: Cells) -> None:
    paths, _ = sites(tmp_path, pancreas)
    (tmp_path / "copy.h5ad").write_bytes(paths[0].read_bytes())
    with pytest.raises(InputError, match="identical files"):
        sources.files([str(paths[0]), str(tmp_path / "copy.h5ad")])
    one = ad.read_h5ad(paths[0])[:50].copy()
    one.uns["other"] = 1
    one.write_h5ad(tmp_path / "copy.h5ad")
    with pytest.raises(InputError, match="cells occur twice"):
        Cells.read([paths[0], tmp_path / "copy.h5ad"], Reading("cell_type", keep_empty=True))


def test_names_are_neither_markup_nor_formulas(tmp_path: Path, few: Cells) -> None:
    names = ["[/x] one", "x$\\frac$y", "細胞 three"]
    obs = pd.DataFrame({"donor_id": [names[i % 3] for i in range(len(few))]})
    obs["cell_type"] = [f"{few.types[label]} a$_{{$b" for label in few.labels]
    obs.index = obs.index.astype(str)
    ad.AnnData(few.counts, obs=obs, var=pd.DataFrame(index=few.genes.astype(str))).write_h5ad(tmp_path / "odd.h5ad")
    record = run(compose_config(tmp_path, "data=h5ad", f"data.path={tmp_path}/odd.h5ad", *QUICK))
    assert record["clients"] == 3
    assert (tmp_path / "run/cells.png").stat().st_size > 0


def test_symbols_serve_where_a_file_has_no_ensembl_ids(tmp_path: Path, pancreas: Cells) -> None:
    paths, _ = sites(tmp_path, pancreas)
    other = ad.read_h5ad(paths[1])
    other.var_names = other.var.pop("feature_name").astype(str)
    other.write_h5ad(paths[1])
    cells = Cells.read(paths, Reading("cell_type", keep_empty=True))
    assert set(cells.genes) <= set(pancreas.symbols)
    mouse = ad.read_h5ad(paths[1])
    mouse.var_names = [f"ENSMUSG{i:011d}" for i in range(mouse.n_vars)]
    mouse.write_h5ad(paths[1])
    with pytest.raises(
        InputError, match=r"0 of 190 genes .*one has ENSG.*, ENSG.*, ENSG.*; other has ENSMUSG.*min_gene_overlap"
    ):
        Cells.read(paths, Reading("cell_type", keep_empty=True))


def test_a_client_that_lacks_a_type_costs_nothing(tmp_path: Path, pancreas: Cells) -> None:
    """Four sites of one protocol, each without another type, against the same cells with all types everywhere."""
    kept = np.flatnonzero(pancreas.clients == "Tosti et al. 2021")
    obs = pd.DataFrame({"cell_type": [pancreas.types[label] for label in pancreas.labels[kept]]})
    obs.index = obs.index.astype(str)
    whole = ad.AnnData(pancreas.counts[kept], obs=obs, var=pd.DataFrame(index=pancreas.genes.astype(str)))
    accuracy = {}
    for lacking in (False, True):
        paths = []
        for site in range(4):
            mine = whole[site::4]
            if lacking:
                mine = mine[mine.obs["cell_type"] != pancreas.types[2 * site]]
            paths.append(tmp_path / f"{'lacking' if lacking else 'whole'}{site}.h5ad")
            mine.copy().write_h5ad(paths[-1])
        names = ",".join(map(str, paths))
        ours = ["data=h5ad", f"data.path=[{names}]", "data.n_genes=500", "logger=none", "trainer=cpu"]
        record = run(compose_config(tmp_path / str(lacking), *ours))
        assert (record["types"], record["clients"]) == (9, 4)
        accuracy[lacking] = record["accuracy"]
    assert accuracy[True] > accuracy[False] - 0.05  # of 335 test cells, whose standard error is .02


@pytest.mark.skipif(not SHARED.exists(), reason="needs the shared files")
def test_two_sites_with_other_genes_train_a_federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCFL_DATA", str(SHARED))
    record = run(compose_config(tmp_path, "data=pbmc_two_sites", "logger=none"))
    assert (record["clients"], record["types"]) == (2, 8)
    assert record["accuracy"] > 0.945


def test_synthetic_cells_are_what_was_asked_for(tmp_path: Path) -> None:
    asked = {"cells": 4000, "genes": 300, "types": 5, "donors": 3, "depth": 500.0}
    synthetic.write(tmp_path / "made.h5ad", **asked, seed=1)
    synthetic.write(tmp_path / "again.h5ad", **asked, seed=1)
    cells = Cells.read([tmp_path / "made.h5ad"], Reading("cell_type", "donor_id"))
    assert (cells.counts.shape, len(cells.types), len(set(cells.clients))) == ((4000, 300), 5, 3)
    assert np.median(np.asarray(cells.counts[:].sum(axis=1))) == pytest.approx(500, rel=0.05)
    again = Cells.read([tmp_path / "again.h5ad"], Reading("cell_type", "donor_id"))
    assert (cells.counts[:] != again.counts[:]).nnz == 0
    # Among cells of one type and donor a gene's variance is above Poisson's by what the model says, and more by depth.
    one = cells.counts[(cells.labels == 0) & (cells.clients == cells.clients[0])].toarray()
    few = (one.mean(axis=0) > 0.05) & (one.mean(axis=0) < 0.5)
    ratio = np.median(one.var(axis=0)[few] / one.mean(axis=0)[few])
    assert 1.3 < ratio < 1.8


def test_features_of_others_are_taken_as_they_are(tmp_path: Path, few: Cells) -> None:
    values = np.random.default_rng(0).normal(size=(len(few), 30)).astype(np.float32)
    obs = pd.DataFrame({"cell_type": few.labels.astype(str), "donor_id": few.clients.astype(str)}).add_prefix("")
    obs.index = obs.index.astype(str)
    ad.AnnData(values, obs=obs).write_h5ad(tmp_path / "mine.h5ad")
    reading = Reading("cell_type", "donor_id", preprocess=False)
    cells = Cells.read([tmp_path / "mine.h5ad"], reading)
    assert cells.notes == ("mine: features from X",)
    dataset = prepared(cells, split_of(cells), all_genes, preprocess=False)
    x = dataset.features[np.arange(len(cells))][0].numpy() + dataset.preparation.mean
    order = [int(name) for name in dataset.preparation.genes]
    np.testing.assert_allclose(x, values[:, order], atol=1e-5)
    assert sources.files(str(tmp_path / "mine.h5ad")) == [tmp_path / "mine.h5ad"]
