"""The command line: ``scfl-green COMMAND``, or ``python -m scfl_green COMMAND``."""

import atexit
import locale
import os
import shutil
import sys
import tempfile
import webbrowser
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

import scfl_green
from scfl_green.errors import InputError
from scfl_green.share import commands as share
from scfl_green.sites import commands as sites


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line, or ``words`` instead."""
    if words is None:
        in_utf8()
        words = sys.argv[1:]
    with_caches()
    if words[:1] == ["train"]:
        from scfl_green.runs.program import train  # each command imports only what it needs

        return train(words[1:])
    try:
        options = _parser().parse_args(words)
        options.does(options)
    except InputError as error:
        sys.exit(f"error: {error}")


def in_utf8() -> None:
    """Start this program anew in Python's UTF-8 mode where the locale has another encoding: it and its libraries read
    and write UTF-8, and the names of files and cell types are not ASCII alone."""
    if locale.getpreferredencoding(False).casefold().replace("-", "") != "utf8":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def with_caches() -> None:
    """Give this program and its libraries a folder for their caches, removed at the end, where the user has none that
    can be written, as in many containers; and tell those that look for it by HOME where it is."""
    own = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # noqa: PTH111  # never an error
    there = next(folder for folder in (own, *own.parents) if folder.exists() or folder == Path())
    if not own.is_absolute() or not os.access(there, os.W_OK):
        atexit.register(shutil.rmtree, folder := tempfile.mkdtemp(prefix="scfl-green-"), ignore_errors=True)
        if "SCFL_CACHE" not in os.environ:
            print(f"{own} cannot be written: prepared cells are not kept (SCFL_CACHE names a folder)", file=sys.stderr)
        own = Path(folder)
        os.environ.setdefault("MPLCONFIGDIR", folder)  # else Matplotlib warns of its own
    elif "HOME" in os.environ:
        return
    os.environ["XDG_CACHE_HOME"] = str(own)


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Report in one line, as for any mistake."""
        raise InputError(f"{message}; see {self.prog} --help")


def _parser() -> ArgumentParser:
    parser = _Parser("scfl-green", description="Single-cell classifiers, ranked by accuracy per kg of CO2.")
    parser.add_argument("--version", action="version", version=scfl_green.__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    # Only listed here; main passes its arguments to Hydra.
    commands.add_parser("train", help="train, measure and score: one run, or with -m a sweep; takes Hydra's overrides")
    report = commands.add_parser("report", help="tables, figures and an HTML page of a run, or of a sweep's runs")
    report.add_argument("folder", type=Path, metavar="RUN|SWEEP", help="such as logs/runs/NAME or logs/sweeps/NAME")
    report.add_argument("--country", help="reckon emissions for this country (ISO 3166 alpha-3, such as FRA)")
    report.add_argument("--open", action="store_true", help="show the page in the browser")
    report.set_defaults(does=_report)
    leakage = commands.add_parser("leakage", help="how well a run's weights reveal its training cells")
    leakage.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a finished run")
    leakage.add_argument("--trust", action="append", default=[], metavar="MODULE", help="whose code the run may use")
    leakage.set_defaults(does=_leakage)
    _add_annotate(commands.add_parser("annotate", help="tell the cell types of an h5ad file, by a finished model"))
    collect = commands.add_parser("collect", help="write results.csv of a sweep's finished runs")
    collect.add_argument("folder", type=Path, help="of a sweep, such as logs/sweeps/NAME")
    collect.set_defaults(does=_collect)
    share.add(commands)
    sites.add(commands)
    return parser


def _add_annotate(annotate: ArgumentParser) -> None:
    add = annotate.add_argument
    add("model", metavar="MODEL", help="the folder of a finished run, such as logs/runs/NAME")
    add("cells", type=Path, metavar="CELLS.h5ad", help="counts; needs no labels")
    add("-o", dest="out", type=Path, metavar="OUT.h5ad", help="default: CELLS.annotated.h5ad, in this folder")
    add("--in-place", action="store_true", help="write into CELLS.h5ad itself")
    add("--overwrite", action="store_true", help="replace what is there already")
    add("--csv", action=BooleanOptionalAction, default=True, help="write the columns as a table, too")
    add("--page", action=BooleanOptionalAction, default=True, help="write a page (HTML), too")
    add("--label-key", metavar="COLUMN", help="labels of your own, which the page compares")
    add("--prefix", default="scfl_", help="of the names of all that is written (scfl_)")
    add("--clusters", metavar="COLUMN", help="clusters, such as leiden, whose majorities are told")
    add("--coverage", type=float, default=0.9, help="share of cells whose true type is in their set (0.9)")
    add("--by-type", action="store_true", help="this share of each type that has enough validation cells")
    add("--alpha", type=float, default=0.01, help="p-value below which a cell is unlike the training cells (0.01)")
    add("--counts", metavar="PLACE", help="of the counts, such as layers/counts, if they are not found")
    add("--fractions", action="store_true", help="counts need not be whole: without ambient RNA, or estimated")
    add("--gene-key", metavar="COLUMN", help="of var with the gene names, if they are not found")
    add("--min-gene-overlap", type=float, default=0.5, help="share of the model's genes that must be there (0.5)")
    add("--country", default="DEU", help="whose electricity is used (ISO 3166 alpha-3)")
    add("--trust", action="append", default=[], metavar="MODULE", help="whose code the model may use")
    annotate.set_defaults(does=_annotate)


def _report(options: Namespace) -> None:
    from scfl_green.analysis.report import report

    path = report(options.folder, options.country)
    print(path)
    if options.open:
        webbrowser.open(path.resolve().as_uri())


def _leakage(options: Namespace) -> None:
    from scfl_green.analysis.leakage import privacy
    from scfl_green.runs.names import register_resolvers

    register_resolvers()  # a saved configuration still has its interpolations
    for folder in options.runs:
        privacy(folder, options.trust)


def _annotate(options: Namespace) -> None:
    from scfl_green.energy.hardware import detect_hardware
    from scfl_green.share.annotate import Outputs, annotate
    from scfl_green.share.model import Model
    from scfl_green.share.options import Options

    chosen = Options(**{field.name: getattr(options, field.name) for field in fields(Options)})
    written = {name: getattr(options, name) for name in ("in_place", "csv", "page")}
    outputs = Outputs.beside(options.cells, options.out, **written)
    outputs.check(options.prefix, options.overwrite)
    detect_hardware(options.country, None, None)  # while the model is loaded
    annotation = annotate(Model.load(options.model, options.trust), outputs, chosen, options.label_key)
    for note in annotation.notes:
        print(note)
    print(f"{len(annotation.obs):,} cells annotated, {annotation.about['emissions_g']:.2g} g CO2e")
    print(*filter(None, (outputs.h5ad, outputs.csv, outputs.page)), sep="\n")


def _collect(options: Namespace) -> None:
    from scfl_green.analysis.collect import collect

    print(f"{len(collect(options.folder))} runs in {options.folder}/results.csv")
