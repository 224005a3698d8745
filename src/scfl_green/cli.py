"""The command line: ``scfl-green COMMAND``, or ``python -m scfl_green COMMAND``."""

import sys
import webbrowser
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import scfl_green
from scfl_green.errors import InputError
from scfl_green.share import commands as share


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line, or ``words`` instead."""
    words = sys.argv[1:] if words is None else words
    if words[:1] == ["train"]:
        from scfl_green.runs.program import train  # each command imports only what it needs

        return train(words[1:])
    try:
        options = _parser().parse_args(words)
        options.does(options)
    except InputError as error:
        sys.exit(f"error: {error}")


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
    collect = commands.add_parser("collect", help="write results.csv of a sweep's finished runs")
    collect.add_argument("folder", type=Path, help="of a sweep, such as logs/sweeps/NAME")
    collect.set_defaults(does=_collect)
    share.add(commands)
    return parser


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


def _collect(options: Namespace) -> None:
    from scfl_green.analysis.collect import collect

    print(f"{len(collect(options.folder))} runs in {options.folder}/results.csv")
