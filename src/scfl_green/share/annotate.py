"""Annotates an h5ad file: ``scfl-green annotate MODEL CELLS.h5ad``. X is copied as it lies and never in memory."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from scfl_green.data.reading.formats import no_file
from scfl_green.data.reading.preflight import column_names, opened
from scfl_green.errors import InputError
from scfl_green.share.annotation import ABOUT, COLUMNS, PROBABILITIES, Annotation
from scfl_green.share.cells import NewCells
from scfl_green.share.model import Model
from scfl_green.share.options import Options, worded
from scfl_green.share.page import check_labels, page


@dataclass(frozen=True)
class Outputs:
    """What is written: the annotated file, which may be ``cells`` itself, and a table and a page, if wanted."""

    cells: Path
    h5ad: Path
    csv: Path | None
    page: Path | None
    in_place: bool

    @classmethod
    def beside(cls, cells: Path, out: Path | None, *, in_place: bool, csv: bool, page: bool) -> "Outputs":
        """The table and the page lie beside the annotated file, which by default is in the current folder."""
        if in_place and out is not None:
            raise InputError("--in-place writes into the file itself; leave out -o, or leave out --in-place")
        stem = f"{cells.name.removesuffix('.h5ad')}.annotated"
        h5ad = cells if in_place else out or Path(f"{stem}.h5ad")
        beside = h5ad.with_name(stem if in_place else h5ad.name.removesuffix(".h5ad"))
        table, shown = Path(f"{beside}.csv") if csv else None, Path(f"{beside}.html") if page else None
        return cls(cells, h5ad, table, shown, in_place)

    def check(self, prefix: str, overwrite: bool) -> None:
        """InputError, before any work, for what cannot or must not be written."""
        if self.cells.is_dir():
            raise no_file(self.cells)
        if not self.cells.is_file():
            raise InputError(f"{self.cells}: no such file; an h5ad file is expected")
        folder = self.h5ad.absolute().parent
        if self.h5ad.suffix != ".h5ad" or not folder.is_dir() or not os.access(folder, os.W_OK):
            raise InputError(f"{self.h5ad}: the name of an h5ad file in a folder that can be written is expected")
        if not self.in_place and self.h5ad.exists() and self.h5ad.samefile(self.cells):
            raise InputError(
                f"{self.h5ad} is the file of the cells; write it in place with --in-place, or name another"
            )
        written = [path for path in (None if self.in_place else self.h5ad, self.csv, self.page) if path is not None]
        if there := [path for path in written if path.exists() and not overwrite]:
            raise InputError(f"{there[0]} is there already; name another file with -o, or use --overwrite")
        with opened(self.cells) as file:
            taken = set(column_names(file["obs"])) & {prefix + name for name in COLUMNS}
            ours = prefix + ABOUT in file.get("uns", ())
            if self.in_place and not _is_whole(file, self.cells):
                raise InputError(f"{self.cells} is no h5ad file, and cannot be one in place; leave out --in-place")
        if taken and not overwrite and not ours:
            raise InputError(
                f"{self.cells}: obs has a column {min(taken)} already; use another --prefix, or --overwrite"
            )


def annotate(model: Model, outputs: Outputs, options: Options, label_key: str | None = None) -> Annotation:
    """Annotate a file; everything is written, or nothing. ``label_key``: a column of obs with labels of the user's own,
    for the page. InputError if the cells cannot be annotated."""
    with worded():
        cells = NewCells.of_file(outputs.cells, options.counts, options.gene_key, model.kind(options))
        own = None if label_key is None else cells.column(label_key, "label_key")
        if own is not None:
            check_labels(own, str(label_key))
        with _progress(cells.n_cells) as advance:
            annotation = model.annotation(cells, options, advance)
    with tempfile.TemporaryDirectory(prefix=".annotate-", dir=outputs.h5ad.absolute().parent) as folder:
        drafts = {outputs.h5ad: Path(folder) / "h5ad"}
        _write_h5ad(drafts[outputs.h5ad], outputs.cells, annotation, cells)
        if outputs.csv is not None:
            drafts[outputs.csv] = Path(folder) / "csv"
            table = annotation.columns().set_axis(cells.names(), axis="index").rename_axis("cell")
            table.to_csv(drafts[outputs.csv])
        if outputs.page is not None:
            drafts[outputs.page] = Path(folder) / "page"
            drafts[outputs.page].write_bytes(page(annotation, outputs.cells.name, own, cells.umap()))
        for path, draft in drafts.items():
            draft.replace(path)
    return annotation


@contextmanager
def _progress(n_cells: int) -> Iterator:
    """A bar on a terminal; told how many cells are done."""
    columns = TextColumn("annotating"), BarColumn(), MofNCompleteColumn(), TextColumn("cells"), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task("", total=n_cells)
        yield lambda n: progress.advance(task, n)


def _write_h5ad(draft: Path, source: Path, annotation: Annotation, cells: NewCells) -> None:
    """Copy the file, and add to its obs, obsm and uns alone."""
    from anndata.io import write_elem  # slow to import

    with opened(source) as file:
        if not _is_whole(file, source):
            with h5py.File(draft, "w") as to:
                for name in file:
                    file.copy(name, to)
                to.attrs.update(file.attrs)
        else:
            shutil.copyfile(source, draft)
    with h5py.File(draft, "r+") as file:
        obs, columns = file["obs"], annotation.columns()
        for name, column in columns.items():
            write_elem(obs, str(name), column.array if column.dtype == "category" else column.to_numpy())
        order = [name for name in column_names(obs) if name not in columns]
        obs.attrs["column-order"] = [*order, *columns]
        for name in {"obsm", "uns"} - set(file):
            write_elem(file, name, {})
        probabilities = annotation.frame(cells.names().astype(str))
        write_elem(file["obsm"], annotation.prefix + PROBABILITIES, probabilities)
        write_elem(file["uns"], annotation.prefix + ABOUT, annotation.about)


def _is_whole(file: h5py.Group, path: Path) -> bool:
    """Whether what is read is all of a file, and not the RNA of several modalities or another format's copy."""
    return file.name == "/" and file.file.filename == str(path)
