"""From count files to batches of features; exports the names that configurations use."""

from scfl_green.data.clients import by_client, chunks, dirichlet, iid
from scfl_green.data.features.prepare import all_genes, between_within, highly_variable
from scfl_green.data.sources.download import Asset, cellxgene, download, github_release
from scfl_green.data.sources.local import elsewhere, fetched, files, packaged
from scfl_green.data.sources.published import from_table, from_tar
from scfl_green.data.sources.synthetic import write as write_synthetic

__all__ = [
    "Asset",
    "all_genes",
    "between_within",
    "by_client",
    "cellxgene",
    "chunks",
    "dirichlet",
    "download",
    "elsewhere",
    "fetched",
    "files",
    "from_table",
    "from_tar",
    "github_release",
    "highly_variable",
    "iid",
    "packaged",
    "write_synthetic",
]
