"""Files on which earlier versions failed, made by their own scripts beside this checkout."""

import os
import runpy
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from scfl_green.data.reading.cells import Cells
from scfl_green.data.reading.counts import Kind
from scfl_green.data.reading.file import Reading
from scfl_green.data.sources.local import files
from scfl_green.errors import InputError
from scfl_green.share.cells import NewCells

SHARED = ROOT.parent / "shared/cases"
pytestmark = [
    pytest.mark.skipif(not SHARED.exists(), reason="needs the shared cases"),
    pytest.mark.slow,  # smaller ones of the same kinds are made in test_foreign_files.py and test_formats.py
    pytest.mark.filterwarnings("ignore"),
]
SITE = Reading("cell_type", "site")
Made = Callable[[str], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Makes the files of a case, once."""

    @cache
    def make(case: str) -> Path:
        (script,) = SHARED.glob(f"{case}/make.py")
        os.chdir(folder := tmp_path_factory.mktemp(case[:2]))
        try:
            runpy.run_path(str(script))
        except ModuleNotFoundError as error:
            pytest.skip(f"{script.parent.name} needs {error.name}")
        return folder

    before = Path.cwd()
    yield make
    os.chdir(before)


def test_antibodies_are_left_out(made: Made) -> None:
    folder = made("01-*")
    cite, rna = (Cells.read([folder / f"{name}.h5ad"], SITE) for name in ("cite", "rna"))
    assert (cite.counts != rna.counts).nnz == 0
    assert cite.genes.tolist() == rna.genes.tolist()
    assert cite.notes[0] == "cite: features that are no genes are left out: 20 antibody capture"


def test_corrected_counts_need_a_setting_and_rounded_ones_none(made: Made) -> None:
    folder = made("02-*")
    with pytest.raises(InputError, match=r"data.fractions=true") as raised:
        Cells.read([folder / "soupx.h5ad"], SITE)
    assert "preprocess" not in str(raised.value)
    assert len(Cells.read([folder / "soupx.h5ad"], Reading("cell_type", "site", fractions=True))) == 800
    raw, undone = (Cells.read([folder / f"{name}.h5ad"], SITE) for name in ("raw", "undone"))
    assert (raw.counts != undone.counts).nnz == 0
    assert "whole up to rounding" in undone.notes[0]


def test_the_rna_of_h5mu_is_read(made: Made) -> None:
    assert len(Cells.read([made("03-*") / "cells.h5mu"], SITE).types) == 9


def test_10xs_formats_are_read_or_told_how_to_convert(made: Made) -> None:
    folder = made("04-*")
    read, plain = (
        NewCells.of_file(folder / name, None, None, Kind()) for name in ("filtered_feature_bc_matrix.h5", "plain.h5ad")
    )
    assert all((one != other).nnz == 0 for one, other in zip(read.blocks(), plain.blocks(), strict=True))
    for name, words in {
        "filtered_feature_bc_matrix": "read_10x_mtx", "plain.h5ad.gz": "gunzip", "plain.zarr": "read_zarr",
        "cells.loom": "read_loom",
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=words):
            Cells.read(files(str(folder / name)), SITE)


@pytest.mark.parametrize("name", ["S_attrs", "S_noattrs", "A_noattrs", "S_categories", "S_categories_noattrs"])
def test_text_of_any_writer_is_read(made: Made, name: str) -> None:
    read = Cells.read([made("05-*") / f"{name}.h5ad"], SITE)
    assert len(read.types) == 9
    assert sorted(set(read.clients)) == ["Fasolino", "Muraro", "Tosti", "Tritschler"]


@pytest.mark.parametrize("case", ["05-*", "05b-*"])
def test_text_of_two_writers_is_the_same(made: Made, case: str) -> None:
    read = Cells.read([made(case) / "py_site.h5ad", made(case) / "R_site.h5ad"], Reading("cell_type"))
    assert len(read.types) == 9


@pytest.mark.parametrize("name", ["scalar", "emptyvar", "stale", "nocolumnorder"])
def test_columns_are_found_without_their_order(made: Made, name: str) -> None:
    read = Cells.read([made("06-*") / f"{name}.h5ad"], Reading("cell_type"))
    assert (len(read), len(read.types)) == (800, 9)


def test_labels_that_are_none_are_said(made: Made) -> None:
    path = made("10-*") / "unknown.h5ad"
    assert any("'data.drop_types=[Unassigned,unknown]'" in note for note in Cells.read([path], SITE).notes)
    read = Cells.read([path], Reading("cell_type", "site", drop_types=["unknown", "Unassigned"]))
    assert len(read.types) == 9
    assert not np.isin(["unknown", "Unassigned"], read.types).any()
