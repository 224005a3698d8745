"""What annotate cannot do: each mistake ends in one line that says what to do, and nothing is written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest

import scfl_green
from jobs import as_adata
from scfl_green.cli import main
from scfl_green.data.reading.cells import Cells
from scfl_green.data.reading.counts import EITHER, IF_LOGGED, LOGGED, UNLOGGED
from scfl_green.errors import InputError
from scfl_green.share.options import worded

Change = Callable[[Path, Path], Any]


def model_json(**changed: Any) -> Change:
    """The model's own account of itself, changed."""

    def change(model: Path, cells: Path) -> None:
        about = json.loads((model / "model.json").read_text())
        (model / "model.json").write_text(json.dumps(about | changed))

    return change


def file_with(change: Callable[[ad.AnnData], Any]) -> Change:
    def write(model: Path, cells: Path) -> None:
        adata = ad.read_h5ad(cells)
        change(adata)
        adata.write_h5ad(cells)

    return write


def truncated(model: Path, cells: Path) -> None:
    cells.write_bytes(cells.read_bytes()[:-4000])


def garbled(model: Path, cells: Path) -> None:
    path = model / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")


def of_sites(model: Path, cells: Path) -> None:
    (model / "site-1").mkdir()


def late_nan(adata: ad.AnnData) -> None:
    adata.X.data[-1] = np.nan


def renamed(adata: ad.AnnData) -> None:
    adata.var = pd.DataFrame(index=[f"FBgn{number:07}" for number in range(adata.n_vars)])


def numbered(adata: ad.AnnData) -> None:
    adata.obs["depth"] = np.linspace(0, 1, adata.n_obs)


def labelled_before(adata: ad.AnnData) -> None:
    adata.obs["scfl_label"] = "mine"


def linked(model: Path, cells: Path) -> None:
    with h5py.File(cells, "r+") as file:
        file["obsm/X_umap"] = h5py.ExternalLink("/etc/passwd", "/X")


def written_before(model: Path, cells: Path) -> None:
    shutil.copy(cells, cells.with_name("cells.annotated.h5ad"))


def nothing(model: Path, cells: Path) -> None:
    """Only the words are wrong."""


NO_OPTIMIZER: dict[str, Any] = {"optimizer": {"_target_": "torch.optim.Adam", "_partial_": True}}
EVIL = {"_target_": "os.system", "command": "touch evil"}
OTHER = {"_target_": "scfl_green.models.ACTINN", "hidden": [3, 3], **NO_OPTIMIZER}
SEVERAL = {"_target_": "scfl_green.models.ScDLC", **NO_OPTIMIZER}
ENDLESS = {"temperature": 1.0, "n_cells": 10**30, "scores": [[0, 0, 1]], "novelty": [[0, 1]], "profiles": {}}
# By mistake: what is done to the model and the file, further words, and words of the message.
CASES: dict[str, tuple[Change, list[str], str]] = {
    "no model": (lambda model, _: shutil.rmtree(model), [], "no such folder; name that of a finished run"),
    "an unfinished run": (lambda model, _: (model / "weights.safetensors").unlink(), [], "no weights.safetensors"),
    "a model of each site": (of_sites, [], "name one, such as"),
    "damaged weights": (garbled, [], "damaged files (SHA-256"),
    "no JSON": (lambda model, _: (model / "model.json").write_text("{"), [], "damaged files"),
    "code of nobody's": (model_json(model=EVIL), [], "not among the names a received file may use"),
    "weights of a smaller network": (model_json(model=OTHER), [], "the weights are not those of the network"),
    "weights of another framework": (model_json(model=SEVERAL), [], "the weights are not those of the network"),
    "types too few": (model_json(cell_types=["a", "b"], cell_type_ids=None), [], "damaged files"),
    "types twice": (model_json(cell_types=["a"] * 9), [], "damaged files"),
    "ids of no ontology": (model_json(cell_type_ids=["<script>"] * 9), [], "damaged files"),
    "a calibration of no cells": (model_json(calibration=ENDLESS), [], "damaged files"),
    "no file": (lambda _, cells: cells.unlink(), [], "no such file; an h5ad file is expected"),
    "no HDF5": (lambda _, cells: cells.write_text("a,b\n1,2\n"), [], "not an HDF5 file"),
    "a truncated file": (truncated, [], "damaged"),
    "data elsewhere": (linked, [], "link to another file"),
    "log-normalised": (file_with(lambda a: setattr(a, "X", a.X.log1p())), [], "log-transformed counts"),
    "NaN at the end": (file_with(late_nan), [], "1 NaN or infinite values"),
    "genes of a fly": (file_with(renamed), [], "one kind of gene names (gene_key)"),
    "no such layer": (nothing, ["--counts=layers/raw"], "counts=layers/raw: no such matrix; there are X"),
    "no such column of genes": (
        nothing,
        ["--gene-key=name"],
        "gene_key=name: no such column in var; did you mean feature",
    ),
    "no such clusters": (nothing, ["--clusters=sites"], "clusters=sites: no such column in obs; did you mean site?"),
    "clusters that are none": (file_with(numbered), ["--clusters=depth"], "clusters are expected"),
    "no such labels": (nothing, ["--label-key=celltype"], "label_key=celltype: no such column in obs; did you mean"),
    "labels that are none": (file_with(numbered), ["--label-key=depth"], "at most 100 labels"),
    "all covered": (nothing, ["--coverage=1"], "coverage=1: a share above 0 and below 1"),
    "a p-value of 2": (nothing, ["--alpha=2"], "alpha=2: a p-value"),
    "an overlap of 3": (nothing, ["--min-gene-overlap=3"], "min_gene_overlap=3: a share from 0 to 1"),
    "no country": (nothing, ["--country=Germany"], "country=Germany: it should be the ISO 3166 alpha-3 code"),
    "a slash in names": (nothing, ["--prefix=a/b"], "prefix=a/b"),
    "a number that is none": (nothing, ["--alpha=few"], "invalid float value"),
    "no folder for it": (nothing, ["-o", "nowhere/out.h5ad"], "in a folder that can be written"),
    "another format": (nothing, ["-o", "out.zarr"], "the name of an h5ad file"),
    "over the file itself": (nothing, ["-o", "./cells.h5ad"], "write it in place with --in-place"),
    "in two places": (nothing, ["-o", "out.h5ad", "--in-place"], "leave out -o"),
    "over another file": (written_before, [], "is there already"),
    "over a column of the user's": (file_with(labelled_before), [], "obs has a column scfl_label already"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_ends_in_one_line_and_nothing_is_written(
    case: str, few: Cells, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, words, said = CASES[case]
    shutil.copytree(small_model, model := tmp_path / "model")
    as_adata(few)[:150].copy().write_h5ad(cells := tmp_path / "cells.h5ad")
    change(model, cells)
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as ended:
        main(["annotate", "model", "cells.h5ad", *words])
    message = str(ended.value)
    assert message.startswith("error: ")
    assert said in message
    assert "\n" not in message
    assert " data." not in message  # a setting of training
    assert len(message) < 500
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_too_few_genes_are_refused_with_three_of_each_side(few: Cells, small_model: Path) -> None:
    adata = as_adata(few)[:20].copy()
    renamed(adata)
    model = scfl_green.load(str(small_model))
    with pytest.raises(InputError) as refused:
        model.annotate(adata)
    assert "0 of the model's 100 genes are in the file" in str(refused.value)
    assert ", ".join(model.trained.preparation.symbols[:3]) in str(refused.value)
    assert "FBgn0000000, FBgn0000001, FBgn0000002" in str(refused.value)
    assert not [name for name in adata.obs if name.startswith("scfl_")]
    known = as_adata(few)[:20, : 6500 // 3].copy()
    with pytest.raises(InputError, match=r"at least 50% are expected"):
        model.annotate(known)
    model.annotate(known, min_gene_overlap=0.1)
    assert 10 <= known.uns["scfl_annotation"]["genes_found"] < 50


@pytest.mark.parametrize("advice", [LOGGED, IF_LOGGED, EITHER])
def test_advice_for_training_is_left_out(advice: str) -> None:
    with pytest.raises(InputError) as told, worded():
        raise InputError(f"X holds other values{advice}")
    assert str(told.value) in ("X holds other values", f"X holds other values{UNLOGGED.replace('data.', '')}")
