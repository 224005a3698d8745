"""The results pages: docs/results.md, its figures and the README's picture, from the records kept in docs/sweeps.

python -m benchmarks.results [logs/sweeps/grid_pancreas ...]    # sweeps to take in first
"""

import shutil
import sys
import tempfile
from pathlib import Path

import pandas as pd

from scfl_green.analysis import published, tables
from scfl_green.analysis.drawings import drawings
from scfl_green.analysis.headline import headlines
from scfl_green.analysis.network import compare_networks
from scfl_green.analysis.page import write_figure
from scfl_green.analysis.results import method, read_results

DOCS = Path(__file__).parents[1] / "docs"
FIGURES = ("ratios", "regimes", "message", "federated_opts", "central_opts", "front", "epochs", "finetune_emissions")
SHOWN = ["accuracy_mean", "accuracy_std", "macro_f1_mean", "emissions_g_mean", "eaps_mean", "eaps_training_mean"]
BESIDE = ["regime", "model", "opt", "accuracy", "accuracy_published", "emissions_g", "emissions_g_published"]
HEAD = """# All result tables

Written by `python -m benchmarks.results` from the records of finished sweeps in `docs/sweeps`; each section is named
after its sweep. [Results](findings.md) has the commands that ran them and a summary.
EAPS is weighted F1 per kg CO2e of training and transfer; `eaps_training` leaves transfer out. Ratios are paired by
seed, with Student's 95% intervals; p-values are adjusted for all ratios of a table (Holm). A winner is named only if it
differs from every other method; equal are those shown to differ by less than 5%. Detectable: the ratio that so many
seeds, spread like these, find in 80% of cases, adjusted for the comparisons that are left in the table."""


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, numbers to three digits."""

    def text(value: object) -> str:
        if not isinstance(value, float) or pd.isna(value):
            return "" if pd.isna(value) else str(value)
        return f"{value:.3g}" if abs(value) < 1e3 else f"{value:,.0f}"

    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + "---|" * len(table.columns)]
    return "\n".join([*lines, *("| " + " | ".join(map(text, row)) + " |" for row in table.itertuples(index=False))])


def keep(folder: Path) -> None:
    """Copy what the pages need of a finished sweep into docs/sweeps."""
    kept = DOCS / "sweeps" / folder.resolve().name
    kept.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "results.csv", kept)
    for run in pd.read_csv(folder / "results.csv")["folder"]:
        if (folder / run / "finetune.csv").exists():
            (kept / run).mkdir(exist_ok=True)
            shutil.copy(folder / run / "finetune.csv", kept / run)


def of_sweep(folder: Path, out: Path | None) -> str:
    """The section of a sweep; its figures are written into ``out``, if there is one."""
    results = read_results(folder)
    trained = results[results["regime"] != "finetune"]
    shown = tables.summarise(results)[[*method(results), "runs", *SHOWN]].drop(columns="data")
    parts = [f"## {folder.name}", *headlines(results), "### Means and standard deviation", markdown(shown)]
    if trained["opt"].nunique() > 1:
        parts += ["### EAPS of the opts, against baseline"]
        parts += [markdown(compare_networks(trained, "opt", "baseline").drop(columns="data"))]
    beside = published.beside_published(trained)
    if not beside.empty:
        won = published.winners_beside_published(trained).drop(columns="data")
        inside = won["published one is among ours"].value_counts().reindex(["yes", "no"], fill_value=0)
        parts += ["### Winners by EAPS of training alone, as the published study counted", markdown(won)]
        parts += [f"The published winner, where it was run, is among ours in {inside['yes']} of {inside.sum()}."]
        parts += ["### Beside the published values", markdown(beside[BESIDE])]
    for drawing in drawings(folder, results):
        if drawing.name.removeprefix(f"{folder.name}_") in FIGURES:
            if out is not None:
                write_figure(drawing.draw(False), out / drawing.name, ("png",))
            parts.append(f"![{drawing.title}](figures/{drawing.name}.png)\n\n*{drawing.caption}*")
    return "\n\n".join(parts)


def build(docs: Path) -> None:
    """Write results.md and figures/ into ``docs``, from the records in docs/sweeps."""
    (docs / "figures").mkdir(parents=True, exist_ok=True)
    (docs / "results.md").write_text(text(docs / "figures"))


def text(out: Path | None = None) -> str:
    """The text of results.md; its figures are written into ``out``, if there is one."""
    sections = [of_sweep(path.parent, out) for path in sorted(DOCS.glob("sweeps/*/results.csv"))]
    return "\n\n".join([HEAD, *sections]) + "\n"


def main(folders: list[Path]) -> None:
    for folder in folders:
        keep(folder)
    with tempfile.TemporaryDirectory() as place:
        build(Path(place))
        shutil.rmtree(DOCS / "figures", ignore_errors=True)  # of sweeps that are kept no more
        shutil.copytree(place, DOCS, dirs_exist_ok=True)


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
