"""Files as other programs write them: read as what they mean, or said to be read otherwise."""

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scfl_green.data.reading.cells import Cells
from scfl_green.data.reading.file import Reading
from scfl_green.data.reading.genes import GeneNames, locate
from scfl_green.data.reading.measured import genes_of
from scfl_green.data.reading.naming import nearly_alike
from scfl_green.errors import InputError

RNG = np.random.default_rng(0)
COUNTS = RNG.negative_binomial(0.4, 0.1, (90, 60)).astype(np.float32)
COUNTS[:, 0] += 1  # no cell is empty
ELSEWHERE = COUNTS[:, ::-1]  # other cells
TYPES = ["Müller cell", "B cell", "T cell"]
SITE = Reading("cell_type", "site")


def cells(counts: np.ndarray = COUNTS, **obs: object) -> ad.AnnData:
    columns = {"cell_type": TYPES * 30, "site": ["a", "b"] * 45} | obs
    frame = pd.DataFrame(columns, index=[f"cell{i}" for i in range(90)])
    var = pd.DataFrame({"feature_name": [f"GENE{i}" for i in range(60)]}, index=[f"ENSG{i:011d}" for i in range(60)])
    return ad.AnnData(sparse.csr_matrix(counts), obs=frame, var=var)


def written(path: Path, adata: ad.AnnData, change: Callable[[h5py.File], object] = lambda _: None) -> Path:
    adata.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def restored(file: h5py.File, name: str, dtype: object, *, attributes: bool = False) -> None:
    """Store text anew, as another writer would."""
    values, kept = file[name].asstr()[:], dict(file[name].attrs) if attributes else {}
    del file[name]
    encoded = [value.encode() for value in values]
    made = file.create_dataset(
        name, data=np.array(encoded) if dtype is bytes else encoded, dtype=dtype if dtype is not bytes else None
    )
    made.attrs.update(kept)


PLACES = ["obs/_index", "var/_index", "var/feature_name"]


@pytest.mark.parametrize("dtype", [bytes, h5py.string_dtype("ascii"), h5py.string_dtype("utf-8")], ids=str)
@pytest.mark.parametrize("attributes", [True, False])
@pytest.mark.parametrize("categories", [True, False])
def test_text_is_the_same_however_it_is_stored(
    tmp_path: Path, dtype: object, attributes: bool, categories: bool
) -> None:
    adata = cells()
    theirs, ours = tmp_path / "theirs.h5ad", written(tmp_path / "ours.h5ad", cells(ELSEWHERE))
    adata.write_h5ad(theirs, convert_strings_to_categoricals=categories)
    with h5py.File(theirs, "r+") as file:
        for column in ("obs/cell_type", "obs/site"):
            restored(file, f"{column}/categories" if categories else column, dtype, attributes=attributes)
        for place in PLACES:
            restored(file, place, dtype, attributes=attributes)
    both = Cells.read([theirs, ours], SITE)
    assert both.types == ("B cell", "Müller cell", "T cell")
    assert both.genes.tolist() == cells().var_names.tolist()
    assert both.symbols.tolist() == cells().var["feature_name"].tolist()
    alone = Cells.read([theirs], SITE)
    assert sorted(set(alone.clients)) == ["a", "b"]
    np.testing.assert_array_equal(alone.counts[:].toarray(), COUNTS)


def test_missing_values_and_nullable_columns_are_read(tmp_path: Path) -> None:
    adata = cells()
    with ad.settings.override(allow_write_nullable_strings=True):
        adata.obs["cell_type"] = pd.array([*TYPES * 29, None, "B cell", "T cell"], dtype="string")
        path = written(tmp_path / "cells.h5ad", adata)
    with pytest.raises(InputError, match="1 of 90 cells have no cell type"):
        Cells.read([path], SITE)
    assert len(Cells.read([path], Reading("cell_type", "site", drop_unlabelled=True))) == 89


def seurats(file: h5py.File) -> None:
    """Codes as columns, categories apart, attributes of one value in arrays."""
    apart = file["obs"].create_group("__categories")
    for name in ("cell_type", "site"):
        codes, names = file[f"obs/{name}/codes"][:], file[f"obs/{name}/categories"].asstr()[:]
        del file[f"obs/{name}"]
        file[f"obs/{name}"] = codes
        apart[name] = [value.encode() for value in names]
    for place, name in (("X", "encoding-type"), ("obs", "_index"), ("var", "_index")):
        file[place].attrs[name] = np.array([file[place].attrs[name]], dtype=h5py.string_dtype())


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file["obs"].attrs.__setitem__("column-order", "cell_type"),
        lambda file: file["obs"].attrs.__setitem__("column-order", np.zeros(0)),
        lambda file: file["obs"].attrs.__setitem__("column-order", ["gone", "site", "cell_type"]),
        lambda file: file["obs"].attrs.__delitem__("column-order"),
        lambda file: file["var"].attrs.__delitem__("_index"),
        seurats,
    ],
    ids=["one", "none", "a stale one", "no attribute", "an index without a name", "Seurat's"],
)
def test_tables_of_other_writers_are_read(tmp_path: Path, change: Callable[[h5py.File], object]) -> None:
    read = Cells.read([written(tmp_path / "cells.h5ad", cells(), change)], SITE)
    assert read.types == ("B cell", "Müller cell", "T cell")
    assert sorted(set(read.clients)) == ["a", "b"]
    np.testing.assert_array_equal(read.counts[:].toarray(), COUNTS)


OTHERS = {
    "feature_types": ["Gene Expression"] * 50 + ["Antibody Capture"] * 6 + ["Peaks"] * 4,
    "feature_type": ["protein_coding"] * 50 + ["antibody_capture"] * 6 + ["peaks"] * 4,
    "feature_biotype": ["gene"] * 50 + ["spike-in"] * 10,
}


@pytest.mark.parametrize("column", OTHERS)
def test_features_that_are_no_genes_are_left_out_of_genes_and_depth(tmp_path: Path, column: str) -> None:
    adata = cells()
    adata.var[column] = OTHERS[column]
    adata.layers["counts"], adata.X = adata.X, adata.X.log1p()
    read = Cells.read([written(tmp_path / "all.h5ad", adata)], SITE)
    genes = Cells.read([written(tmp_path / "genes.h5ad", cells()[:, :50].copy())], SITE)
    np.testing.assert_array_equal(read.counts[:].toarray(), genes.counts[:].toarray())
    assert read.genes.tolist() == genes.genes.tolist()
    assert read.notes[0].startswith("all: features that are no genes are left out: ")
    assert sum(int(word) for word in read.notes[0].split() if word.isdigit()) == 10


def test_raw_counts_know_their_features_by_the_var_of_the_file(tmp_path: Path) -> None:
    adata = cells()
    adata.var["feature_types"] = OTHERS["feature_types"]
    adata.var["gene_symbols"] = [f"SYMBOL{number}" for number in range(60)]
    adata.raw = ad.AnnData(adata.X, adata.obs, pd.DataFrame(index=adata.var_names))
    adata.X = adata.X.log1p()
    path = written(tmp_path / "raw.h5ad", adata)
    read = Cells.read([path], SITE)
    np.testing.assert_array_equal(read.counts[:].toarray(), COUNTS[:, :50])
    by_key = Cells.read([path], Reading("cell_type", "site", gene_key="gene_symbols"))
    assert by_key.symbols.tolist() == [f"SYMBOL{number}" for number in range(50)]


def test_a_layer_may_be_called_as_raw_counts_are(tmp_path: Path) -> None:
    adata = cells()
    adata.layers["raw.X"], adata.X = adata.X, adata.X.log1p()
    read = Cells.read([written(tmp_path / "cells.h5ad", adata)], Reading("cell_type", "site", counts="layers/raw.X"))
    np.testing.assert_array_equal(read.counts[:].toarray(), COUNTS)


def test_names_tell_what_is_no_gene() -> None:
    names = {
        "spike-in": ["ERCC-00002", "ercc-00171"],
        "count of reads": ["__no_feature", "N_multimapping"],
        "control": ["NegControlProbe_00042", "UnassignedCodeword_0001"],
        "antibody or hashtag": [
            "CD3_TotalSeqB",
            "ADT-CD4",
            "HTO_1",
            "Hashtag 3",
            "CD8:SK1|CD8A|AHS0228|pAbO",
            "CMO301",
        ],
        "peak": ["chr1:9782-10672", "chrX-100-200"],
        "": ["ADTRP", "ERCC1", "ERCC6L2", "CD3E", "AC010329.1", "HLA-DRA", "mt-Co1", "RP11-34P13.7"],
    }
    every = [name for of_kind in names.values() for name in of_kind]
    is_gene, note = genes_of(pd.DataFrame({"feature_name": every}, index=map(str, range(len(every)))))
    assert [name for name, kept in zip(every, is_gene, strict=True) if kept] == names[""]
    assert note.endswith(": 6 antibody or hashtag, 2 control, 2 count of reads, 2 peak, 2 spike-in")
    with pytest.raises(InputError, match="none of the 2 features is a gene"):
        genes_of(pd.DataFrame(index=names["peak"]))


def corrected() -> np.ndarray:
    """Counts without the share of each cell's that is ambient RNA."""
    ambient = COUNTS.sum(axis=0) / COUNTS.sum()
    return np.maximum(COUNTS - 0.1 * COUNTS.sum(axis=1, keepdims=True) * ambient, 0).astype(np.float32)


def test_corrected_counts_are_read_where_they_are_called_so(tmp_path: Path) -> None:
    path = written(tmp_path / "cells.h5ad", cells(corrected()))
    with pytest.raises(InputError, match=r"non-integer values.*data.fractions=true") as refused:
        Cells.read([path], SITE)
    assert "preprocess=none" not in str(refused.value)
    read = Cells.read([path], Reading("cell_type", "site", fractions=True))
    np.testing.assert_array_equal(read.counts[:].toarray(), corrected())
    assert read.notes == ("cells: fractions of counts from X",)


@pytest.mark.parametrize("log", [np.log1p, lambda x: np.log2(1 + x), lambda x: np.log10(1 + x)])
@pytest.mark.parametrize("genes", [60, 25], ids=["all genes", "some genes"])
def test_logarithms_are_no_fractions(tmp_path: Path, log: Callable[[np.ndarray], np.ndarray], genes: int) -> None:
    logged = log(COUNTS / COUNTS.sum(axis=1, keepdims=True) * 1e4).astype(np.float32)
    path = written(tmp_path / "cells.h5ad", cells(logged)[:, :genes].copy())
    with pytest.raises(InputError, match=r"log-normalised values.*data.preprocess=none"):
        Cells.read([path], Reading("cell_type", "site", fractions=True))


def test_whole_numbers_up_to_rounding_are_rounded_and_said_to_be(tmp_path: Path) -> None:
    depth = COUNTS.sum(axis=1, keepdims=True)
    undone = np.expm1(np.log1p(COUNTS / depth * 1e4).astype(np.float32)) * depth / 1e4
    assert (undone != COUNTS).any()
    read = Cells.read([written(tmp_path / "cells.h5ad", cells(undone.astype(np.float32)))], SITE)
    np.testing.assert_array_equal(read.counts[:].toarray(), COUNTS)
    assert read.notes == ("cells: counts, whole up to rounding, from X",)


def test_labels_that_are_none_are_said_and_left_out_on_request(tmp_path: Path) -> None:
    labels = [*["Unassigned", "low-quality cells", "doublet"] * 5, *TYPES * 25]
    path = written(tmp_path / "cells.h5ad", cells(cell_type=labels))
    (note,) = (note for note in Cells.read([path], SITE).notes if "seem to be none" in note)
    dropped = note[note.index("[") + 1 : note.index("]")].split(",")
    assert dropped == ["Unassigned", "doublet", "low-quality cells"]
    read = Cells.read([path], Reading("cell_type", "site", drop_types=dropped))
    assert read.types == ("B cell", "Müller cell", "T cell")
    assert "15 cells of Unassigned, doublet, low-quality cells are left out" in read.notes
    with pytest.raises(InputError, match=r"data.drop_types: no cell is of 'doublets'; did you mean doublet"):
        Cells.read([path], Reading("cell_type", "site", drop_types=["doublets"]))


def test_donors_that_are_none_are_said_and_left_out_on_request(tmp_path: Path) -> None:
    """As Vireo names cells that it gives to no donor, and demultiplexed hashtags those of no or of two."""
    site = [*["a", "b", "doublet", "unassigned"] * 5, *["a", "b"] * 35]
    path = written(tmp_path / "cells.h5ad", cells(site=site))
    (note,) = (note for note in Cells.read([path], SITE).notes if "clients or donors that seem to be none" in note)
    assert note.endswith("doublet (5 cells), unassigned (5 cells); leave them out with "
                         "'data.drop_clients=[doublet,unassigned]'")  # fmt: skip
    read = Cells.read([path], Reading("cell_type", "site", drop_clients=["doublet", "unassigned"]))
    assert sorted(set(read.clients)) == ["a", "b"]
    np.testing.assert_array_equal(read.counts[:].toarray(), COUNTS[np.isin(site, ["a", "b"])])
    with pytest.raises(InputError, match=r"data.drop_clients: no cell is of 'doublets'; did you mean doublet"):
        Cells.read([path], Reading("cell_type", "site", drop_clients=["doublets"]))
    with pytest.raises(InputError, match="all cells belong to 'b'"):
        Cells.read([path], Reading("cell_type", "site", drop_clients=["a", "doublet", "unassigned"]))
    paths = [path, written(tmp_path / "other.h5ad", cells(ELSEWHERE))]
    read = Cells.read(paths, Reading("cell_type", None, "site", drop_clients=["cells/doublet", "cells/unassigned"]))
    assert sorted(set(read.donors)) == ["cells/a", "cells/b", "other/a", "other/b"]


def test_numbered_genes_are_not_matched_across_files(tmp_path: Path) -> None:
    """The numbers may count other genes, also where all files have the same."""
    one, other = cells(), cells(ELSEWHERE)
    for adata in (one, other):
        adata.var = pd.DataFrame(index=[str(number) for number in range(60)])
    paths = [written(tmp_path / "one.h5ad", one), written(tmp_path / "other.h5ad", other)]
    assert len(Cells.read(paths[:1], SITE).genes) == 60
    with pytest.raises(InputError, match=r"genes are numbered \(0, 1, 2.*\), not named.*data.gene_key"):
        Cells.read(paths, Reading("cell_type"))
    by_entrez = GeneNames(None, np.array(["7157", "100287102"], dtype=object))
    assert locate(by_entrez, by_entrez, 0.5).tolist() == [0, 1]
    numbered = GeneNames(None, np.array(["0", "1"], dtype=object))
    with pytest.raises(InputError, match="genes are numbered"):
        locate(numbered, numbered, 0.5)


def test_ids_of_a_part_of_the_genes_are_not_used(tmp_path: Path) -> None:
    one, other = cells(), cells(ELSEWHERE)
    for adata, known in ((one, 40), (other, 60)):
        ids = adata.var_names.to_numpy(dtype=object)
        adata.var = pd.DataFrame({"gene_ids": [*ids[:known], *[None] * (60 - known)]}, index=adata.var["feature_name"])
    paths = [written(tmp_path / "one.h5ad", one), written(tmp_path / "other.h5ad", other)]
    read = Cells.read(paths, Reading("cell_type"))
    assert len(read.genes) == 60
    assert "genes: the same 60 in all files" in read.notes


def test_counts_of_all_genes_go_before_a_layer_of_some(tmp_path: Path) -> None:
    """As scVI's tutorial keeps them: counts of the chosen genes in a layer, of all in raw."""
    adata = cells()
    adata.raw = adata
    adata = adata[:, :20].copy()
    adata.layers["counts"], adata.X = adata.X.copy(), adata.X.log1p()
    path = written(tmp_path / "cells.h5ad", adata)
    read = Cells.read([path], SITE)
    np.testing.assert_array_equal(read.counts[:].toarray(), COUNTS)
    assert read.notes == ("cells: counts from raw/X",)
    some = Cells.read([path], Reading("cell_type", "site", counts="layers/counts"))
    np.testing.assert_array_equal(some.counts[:].toarray(), COUNTS[:, :20])


def test_counts_may_be_as_large_as_reads(tmp_path: Path) -> None:
    deep = COUNTS.copy()
    deep[0, 0] = 2**24
    read = Cells.read([written(tmp_path / "cells.h5ad", cells(deep))], SITE)
    np.testing.assert_array_equal(read.counts[:].toarray(), deep)
    deep[0, 0] = 2**25
    with pytest.raises(InputError, match=r"values up to 3.36e\+07, at most 1.68e\+07"):
        Cells.read([written(tmp_path / "cells.h5ad", cells(deep))], SITE)


def test_values_after_the_end_of_a_matrix_are_no_part_of_it(tmp_path: Path) -> None:
    """As writers leave them that allocate more than they fill."""

    def longer(file: h5py.File) -> None:
        for name in ("data", "indices"):
            values = file[f"X/{name}"][:]
            del file[f"X/{name}"]
            file[f"X/{name}"] = np.append(values, np.zeros(100, values.dtype))

    for number, kind in enumerate((sparse.csr_matrix, sparse.csc_matrix)):
        adata = cells()
        adata.X = kind(adata.X)
        read = Cells.read([written(tmp_path / f"{number}.h5ad", adata, longer)], SITE)
        np.testing.assert_array_equal(read.counts[:].toarray(), COUNTS)


def test_counts_that_their_type_could_not_hold_are_not_called_features(tmp_path: Path) -> None:
    wrapped = (COUNTS * 20).astype(np.uint8).astype(np.int8)
    with pytest.raises(InputError, match=r"negative whole numbers, down to -.*their type could not hold") as refused:
        Cells.read([written(tmp_path / "cells.h5ad", cells(wrapped))], SITE)
    assert "data.preprocess" not in str(refused.value)


def test_small_values_that_are_not_whole_may_be_either(tmp_path: Path) -> None:
    """log2(TPM + 1) of some genes cannot be told from estimates."""
    values = np.where(COUNTS > 0, np.random.default_rng(1).uniform(0.5, 12, COUNTS.shape), 0).astype(np.float32)
    with pytest.raises(InputError, match=r"data.fractions=true, or, if these are logarithms, .*data.preprocess=none"):
        Cells.read([written(tmp_path / "cells.h5ad", cells(values))], SITE)


def test_types_with_one_ontology_id_are_one_across_files(tmp_path: Path) -> None:
    ids = dict(zip(TYPES, ["CL:0000636", "CL:0000236", "CL:0000084"], strict=True))
    one = cells(cell_type_ontology_term_id=[ids[name] for name in TYPES] * 30)
    other = cells(ELSEWHERE, cell_type_ontology_term_id=[ids[name] for name in TYPES] * 30)[:60].copy()
    other.obs["CellType"] = other.obs["cell_type"].replace({"B cell": "B lymphocytes"})
    other.obs["CellType_ontology_term_id"] = other.obs["cell_type_ontology_term_id"]
    paths = [written(tmp_path / "one.h5ad", one), written(tmp_path / "other.h5ad", other)]
    read = Cells.read(paths, Reading(["CellType", "cell_type"]))
    assert read.types == ("B cell", "Müller cell", "T cell")
    assert read.type_ids == ("CL:0000236", "CL:0000636", "CL:0000084")
    assert "cell types with the same Cell Ontology id: 'B lymphocytes' is 'B cell' (CL:0000236)" in read.notes


def test_types_of_one_file_may_share_a_general_id(tmp_path: Path) -> None:
    one = cells(cell_type_ontology_term_id=["CL:0000000"] * 90)
    paths = [written(tmp_path / "one.h5ad", one), written(tmp_path / "other.h5ad", cells(ELSEWHERE))]
    assert len(Cells.read(paths, SITE).types) == 3


def test_types_that_differ_in_punctuation_or_a_plural_are_said() -> None:
    assert nearly_alike(["T cell", "T-cells", "CD4+ T", "CD4- T", "CD4 T", "B cell", "B1 cell"]) == [
        "cell types that may be one: 'T cell' and 'T-cells'; give them one name"
    ]
