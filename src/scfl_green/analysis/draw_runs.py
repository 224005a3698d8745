"""Figures of what happens within runs: energy, learning, cell types, fine-tuning."""

from collections.abc import Iterator
from functools import partial

import pandas as pd

from scfl_green.analysis import figures
from scfl_green.analysis.drawing import MOST, Drawing, Runs, bars_caption, count, repeats
from scfl_green.analysis.figures import energy, learning, style
from scfl_green.analysis.results import varied


def draw_energy(of: Runs) -> Iterator[Drawing]:
    federated = of.plain[of.plain["regime"] == "federated"]
    for model, runs in federated.groupby("model"):
        one = repeats(runs)
        if not all((of.folder / name / "energy.csv").exists() for name in one["folder"]):
            continue
        used = energy.ledger(of.folder, one)
        cause, share = energy.largest(used)
        n = (
            f"Sums of a run, mean over runs (n = {len(one)}). Most of it, {share:.0%}, went to {cause}. Round 0: sums "
            "by gene, before training. Idle: waiting for the slowest site, modelled (carbon.idle_watts); it is part of "
            "EAPS only with carbon.count_idle."
        )
        title = f"{of.data}, {model}: energy by site (n = {len(one)})"
        yield of.drawing(f"{model}_energy", title, n, partial(energy.sites, used))
        if used["round"].nunique() > 1:
            title = f"{of.data}, {model}: energy by round (n = {len(one)})"
            yield of.drawing(f"{model}_rounds", title, n, partial(energy.rounds, used))


def draw_curves(of: Runs) -> Iterator[Drawing]:
    for regime, runs in of.trained.groupby("regime"):
        apart = [column for column in ("opt", *varied(runs)) if runs[column].nunique() > 1]
        name = runs[apart].astype(str).agg(" · ".join, axis=1) if apart else runs["model"]
        rows = learning.read_curves(of.folder, runs.assign(panel=runs["model"], line=name))
        if rows.empty or rows["line"].nunique() > MOST or rows["step"].nunique() < 2:
            continue
        labels = ("round" if regime == "federated" else "epoch", "validation F1 (weighted, 0 to 1)")
        lines = "means over runs; bands: their range" if runs["seed"].nunique() > 1 else "one run each"
        caption = f"Lines: {lines}. Validation cells, not test cells. {count(runs)}"
        draw = partial(learning.curves, rows, labels=labels)
        yield of.drawing(f"{regime}_curves", f"{of.data}: learning curves, {regime}", caption, draw)


def draw_types(of: Runs) -> Iterator[Drawing]:
    """F1 by cell type of every framework without optimisation, and what the best of these takes for what."""
    regimes = of.plain["regime"].unique()
    runs = of.plain[of.plain["regime"] == ("federated" if "federated" in regimes else next(iter(regimes), ""))]
    found = {model: learning.read_confusion(of.folder, repeats(group)) for model, group in runs.groupby("model")}
    found = {model: confused for model, confused in found.items() if len(confused) > 1}
    if not found:
        return
    scores = pd.DataFrame({model: learning.f1_by_type(confused) for model, confused in found.items()})
    best = str(scores.mean().idxmax())
    n = style.counted([len(repeats(group)) for _, group in runs.groupby("model")])
    caption = f"Points: F1 on the test cells of all runs of a method together ({n}); {runs['regime'].iloc[0]}."
    yield of.drawing("types", f"{of.data}: F1 by cell type ({n})", caption, partial(learning.types, scores))
    caption = f"Of each true type's test cells, the share taken for each type; all runs of {best} together ({n})."
    title = f"{of.data}, {best}: what is taken for what ({n})"
    yield of.drawing("confusion", title, caption, partial(learning.confusion, found[best]))


def draw_finetuning(of: Runs) -> Iterator[Drawing]:
    rows = learning.read_finetuning(of.folder, of.runs)
    if rows.empty:
        return
    n = style.counted(rows.groupby(["model", "arm"])["seed"].nunique())
    curves = rows.rename(columns={"epoch": "step", "test_accuracy": "value", "arm": "line", "model": "panel"})
    draw = partial(learning.curves, curves, labels=("epoch", "test accuracy (share of cells)"))
    caption = f"Lines: means over runs; bands: their range ({n}). Test cells chose nothing."
    yield of.drawing("epochs", f"{of.data}: accuracy by epoch at a newcomer", caption, draw)
    last = rows.groupby(["model", "arm", "seed"], sort=False)[["emissions_g"]].max().reset_index()
    caption = bars_caption(rows.groupby(["model", "arm"])["seed"].nunique())
    draw = partial(figures.bars, last, "arm", measures=("emissions_g",))
    yield of.drawing("finetune_emissions", f"{of.data}: emissions, fine-tuned and from scratch", caption, draw)
