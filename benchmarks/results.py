"""The results page: docs/results.md and its figures, from finished sweeps.

python -m benchmarks.results logs/sweeps/grid_pancreas [MORE SWEEPS ...]
"""

import shutil
import sys
from pathlib import Path

import pandas as pd

from scfl_green.analysis import published, tables
from scfl_green.analysis.report import report
from scfl_green.analysis.results import read_results

DOCS = Path(__file__).parents[1] / "docs"
FIGURES = ("regimes", "federated_opts", "central_opts", "front", "epochs", "finetune_emissions")


METHOD = ["regime", "model", "opt"]
SHOWN = [*METHOD, "runs", "accuracy_mean", "accuracy_std", "emissions_g_mean", "eaps_mean", "eaps_training_mean"]
BESIDE = [*METHOD, "accuracy", "accuracy_published", "emissions_g", "emissions_g_published"]
HEAD = """# Results

Made by `python -m benchmarks.results` from the sweeps that name its sections; the README says how they were run.
EAPS is weighted F1 per kg CO2e of training and transfer; `eaps_training` counts no transfer.
Intervals are of the ratio, paired by seed; a winner is named only where its interval against every other excludes 1."""


def markdown(table: pd.DataFrame) -> str:
    def text(value: object) -> str:
        return (
            f"{value:.3g}"
            if isinstance(value, float) and abs(value) < 1e3
            else f"{value:,.0f}"
            if isinstance(value, float)
            else str(value)
        )

    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + "---|" * len(table.columns)]
    return "\n".join([*lines, *("| " + " | ".join(map(text, row)) + " |" for row in table.itertuples(index=False))])


def of_sweep(folder: Path) -> str:
    report(folder)
    results = read_results(folder)
    trained = results[results["regime"] != "finetune"]
    parts = [f"## {folder.name}", "### Means and standard deviation", markdown(tables.summarise(results)[SHOWN])]
    if trained["opt"].nunique() > 1:
        won = published.winners_beside_published(trained).drop(columns="data")
        named = (~won["ours"].str.endswith("(tie)")).sum()
        known = won[won["published"] != "–"]
        inside = (known["published one is among ours"] == "yes").sum()
        among = f" The published winner is among ours in {inside} of {len(known)}." if len(known) else ""
        parts += ["### EAPS of the opts, against baseline"]
        parts += [markdown(tables.compare(trained, "opt", "baseline").drop(columns="data"))]
        parts += ["### Winners by EAPS of training alone, as the study counted"]
        parts += [f"One is named in {named} of {len(won)} cells.{among}", markdown(won)]
    beside = published.beside_published(trained)
    if not beside.empty:
        parts += ["### Beside the published values", markdown(beside[BESIDE])]
    (DOCS / "figures").mkdir(parents=True, exist_ok=True)
    for name in FIGURES:
        for drawn in folder.glob(f"figures/*_{name}.png"):
            shutil.copy(drawn, DOCS / "figures" / drawn.name)
            parts.append(f"![{drawn.stem}](figures/{drawn.name})")
    return "\n\n".join(parts)


def main(folders: list[Path]) -> None:
    (DOCS / "results.md").write_text("\n\n".join([HEAD, *map(of_sweep, folders)]) + "\n")


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
