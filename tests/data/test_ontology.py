"""A site's cell type that is a kind of another site's, by the Cell Ontology."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scfl_green
from conftest import compose_config
from scfl_green.data.reading.cells import Cells
from scfl_green.data.reading.file import Reading
from scfl_green.data.reading.ontology import broader
from scfl_green.data.sources import local as sources
from scfl_green.runs.run import run

IDS = {
    "pancreatic A cell": "CL:0000171", "type B pancreatic cell": "CL:0000169", "pancreatic D cell": "CL:0000173",
    "pancreatic PP cell": "CL:0002275", "pancreatic acinar cell": "CL:0002064", "pancreatic ductal cell": "CL:0002079",
    "pancreatic stellate cell": "CL:0002410", "endothelial cell": "CL:0000115", "macrophage": "CL:0000235",
    "pancreatic endocrine cell": "CL:0008024",
}  # fmt: skip
ISLET = ["pancreatic A cell", "pancreatic D cell", "pancreatic PP cell", "type B pancreatic cell"]
ENDOCRINE = "pancreatic endocrine cell"
T_CELLS = {"T cell": "CL:0000084", "CD4": "CL:0000624", "CD8": "CL:0000625", "B cell": "CL:0000236"}


def two_sites(folder: Path, step: int = 1) -> dict[str, Path]:
    """Every so many cells of the pancreas: of three studies as ``fine``; of the fourth, whose islet cells are no more
    than endocrine cells, as ``coarse``, as ``known`` with the types that they have, and as ``only`` without others."""
    whole = ad.read_h5ad(sources.packaged("pancreas")[0])[::step].copy()
    whole.obs["cell_type"] = whole.obs["cell_type"].astype(str)
    coarse = (whole.obs["Dataset"] == "Tosti et al. 2021").to_numpy()
    parts = {"fine": whole[~coarse].copy(), "known": whole[coarse].copy(), "coarse": whole[coarse].copy()}
    types = parts["coarse"].obs["cell_type"]
    parts["coarse"].obs["cell_type"] = types.where(~types.isin(ISLET), ENDOCRINE)
    parts["only"] = parts["coarse"][parts["coarse"].obs["cell_type"] == ENDOCRINE].copy()
    for name, adata in parts.items():
        adata.obs["cell_type_ontology_term_id"] = adata.obs["cell_type"].map(IDS).to_numpy()
        adata.write_h5ad(folder / f"{name}.h5ad")
    return {name: folder / f"{name}.h5ad" for name in parts}


def test_a_type_stands_for_its_kinds_at_other_sites() -> None:
    fine, coarse = {"CD4": 9, "CD8": 9, "B cell": 9}, {"T cell": 9, "B cell": 9}
    broad, notes = broader([fine, coarse], T_CELLS)
    assert broad == {"T cell": ("CD4", "CD8")}
    assert notes == ["cell types: a 'T cell' may be any of CD4, CD8"]
    # A site that tells them apart means other T cells by the word.
    assert broader([{**fine, "T cell": 9}, coarse], T_CELLS) == ({}, [])
    # A single kind is not what all are.
    broad, notes = broader([{"CD4": 9}, coarse], T_CELLS)
    assert not broad
    assert notes == ["cell types: 'CD4' of one file is a kind of 'T cell' of another, and both are types"]
    lymphocytes = T_CELLS | {"lymphocyte": "CL:0000542"}
    broad, _ = broader([fine, coarse, {"lymphocyte": 9}], lymphocytes)
    assert broad == {"T cell": ("CD4", "CD8"), "lymphocyte": ("B cell", "CD4", "CD8")}
    assert broader([fine, coarse], dict.fromkeys(T_CELLS)) == ({}, [])


def test_cells_of_a_broad_type_have_a_label_of_their_own(tmp_path: Path) -> None:
    paths = two_sites(tmp_path, 8)
    read = Cells.read([paths["fine"], paths["coarse"]], Reading("cell_type", min_cells_per_type=2))
    assert ENDOCRINE not in read.types
    assert [[read.types[kind] for kind in kinds] for kinds in read.broad] == [ISLET]
    own = ad.read_h5ad(paths["coarse"]).obs["cell_type"].astype(str).to_numpy()
    np.testing.assert_array_equal(read.labels[read.clients == "coarse"] == -2, own == ENDOCRINE)
    assert (read.labels[read.clients == "fine"] >= 0).all()


@pytest.mark.parametrize(
    ("choice", "site"),
    [
        ("model=actinn", "coarse"),
        ("model=actinn", "only"),
        ("model=sccdcg", "coarse"),
        ("model=scsmd", "coarse"),
        ("model=linear federation=oneshot", "coarse"),
    ],
)
def test_a_federation_trains_and_is_tested(tmp_path: Path, choice: str, site: str) -> None:
    """Also where a site has no cell of a single type, so that nothing can be tested there."""
    paths = two_sites(tmp_path, 8)
    quick = ["federation.rounds=1", "federation.local_epochs=1"] if "oneshot" not in choice else []
    some = ["data=h5ad", "data.client_key=null", "data.min_cells_per_type=2", "data.n_genes=50", "logger=none"]
    files = f"data.path=[{paths['fine']},{paths[site]}]"
    run(compose_config(tmp_path, *choice.split(), *some, *quick, "federation.min_cells=0", files))
    sites = pd.read_csv(tmp_path / "run/sites.csv", index_col="site")
    assert sites.loc["fine", "accuracy"] > 0
    if choice == "model=actinn":
        scfl_green.load(tmp_path / "run").annotate(known := ad.read_h5ad(paths["known"]))
        assert set(known.obs["scfl_label"]) <= set(IDS) - {ENDOCRINE}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["actinn", "scdlc", "sccdcg", "scsmd"])
def test_parents_train_nearly_as_their_kinds_do(tmp_path: Path, model: str) -> None:
    """Accuracy on the cells of the site with fine labels, which are the same in both."""
    paths, accuracy = two_sites(tmp_path), {}
    for site in ("known", "coarse"):
        files = f"data.path=[{paths['fine']},{paths[site]}]"
        some = ["data=h5ad", "data.client_key=null", "logger=none", f"model={model}", files]
        run(compose_config(tmp_path / site, *some))
        accuracy[site] = pd.read_csv(tmp_path / site / "run/sites.csv", index_col="site").loc["fine", "accuracy"]
    assert accuracy["coarse"] > accuracy["known"] - 0.02
