"""Which features of a file are genes: antibodies, hashtags, guides, peaks and spike-ins are not, and are left out."""

import re
from collections import Counter

import h5py
import numpy as np
import pandas as pd

from scfl_green.data.reading.genes import ID_COLUMNS, SYMBOL_COLUMNS
from scfl_green.data.reading.preflight import table
from scfl_green.errors import InputError

# Columns of var that may tell: 10x's and muon's, and CELLxGENE's.
KINDS = ("feature_types", "feature_type", "feature_biotype")
# What no gene is called there. Other words are taken for kinds of genes, such as Gene Expression and protein_coding.
OTHERS = (
    "antibody capture", "antigen capture", "crispr guide capture", "multiplexing capture", "custom", "peaks", "peak",
    "atac", "chromatin accessibility", "adt", "hto", "protein", "prot", "antibody", "hashtag", "spike-in", "ercc",
    "negative control probe", "negative control codeword", "unassigned codeword", "blank codeword",
    "deprecated codeword", "genomic control",
)  # fmt: skip
# Names that no gene has, whatever the columns say; by line, since thousands of calls would be slow.
NAMES = {
    "spike-in": r"ERCC[-_]\d{5}|SIRV\d+",
    "antibody or hashtag": r"(ADT|HTO|Hashtag|antibody)[-_.:]+\w.*|(HTO|Hashtag) ?\d+|CMO\d{3}"
    r"|.*[-_.](TotalSeq[-_]?[A-D]?|ADT|HTO)|.*\|p?AbO",
    "count of reads": r"__(no_feature|ambiguous|too_low_aQual|not_aligned|alignment_not_unique)"
    r"|N_(unmapped|multimapping|noFeature|ambiguous)",
    "control": r"(NegControl(Probe|Codeword)|(Unassigned|Deprecated)Codeword|Intergenic_Region|BLANK)_\w+",
    "peak": r"(chr\w{1,2}|GL\d+\.\d|KI\d+\.\d)[-:_]\d+[-_]\d+",
}
PATTERNS = {kind: re.compile(rf"^(?:{pattern})$", re.I | re.M) for kind, pattern in NAMES.items()}
# All columns that are read.
COLUMNS = (*KINDS, *SYMBOL_COLUMNS, *ID_COLUMNS)


def var_of(file: h5py.File, place: str, gene_key: str | None) -> pd.DataFrame:
    """What var says of the features of the matrix at ``place``; what raw.var lacks, since some writers keep nothing but
    its index, is taken from var by name: kinds of features, and columns that name all of them."""
    wanted = (gene_key, *COLUMNS)
    if place != "raw/X":
        return table(file["var"], wanted)
    own, other = table(file["raw/var"], wanted), table(file["var"], wanted)
    known = other[~other.index.duplicated()].reindex(own.index)
    for name in known.columns.difference(own.columns):
        if name in KINDS or known[name].notna().all():
            own[name] = known[name].to_numpy()
            own.attrs["all"] = [*own.attrs["all"], name]
    return own


def genes_of(var: pd.DataFrame) -> tuple[np.ndarray, str]:
    """Which features are genes (boolean), and a note on those that are not; InputError if none is."""
    others = np.full(len(var), "", dtype=object)
    for column in KINDS:
        if column in var:
            words = var[column].astype(str).str.strip().str.casefold().str.replace("_", " ").to_numpy(dtype=object)
            others = np.where(np.isin(words, OTHERS), words, others)
    for names in (var.index, *(var[column] for column in (*SYMBOL_COLUMNS, *ID_COLUMNS) if column in var)):
        lines = [str(name).replace("\n", " ") for name in names]
        for kind, pattern in PATTERNS.items():
            if found := {match[0] for match in pattern.finditer("\n".join(lines))}:
                others = np.where(np.isin(lines, list(found)) & (others == ""), kind, others)
    is_gene, left_out = others == "", Counter(others.tolist())
    told = ", ".join(f"{n} {kind}" for kind, n in sorted(left_out.items()) if kind)
    if len(var) and not is_gene.any():
        raise InputError(f"none of the {len(var)} features is a gene ({told}); a file of gene expression is expected")
    return is_gene, f"features that are no genes are left out: {told}" if told else ""
