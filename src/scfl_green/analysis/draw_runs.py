"""Figures of what happens within runs: energy, learning, cell types, fine-tuning."""

from collections.abc import Iterator
from functools import partial

import pandas as pd

from scfl_green.analysis import figures
from scfl_green.analysis.drawing import MOST, NAMED, Drawing, Runs, bars_caption, count, repeats
from scfl_green.analysis.figures import energy, learning, style, tested
from scfl_green.analysis.results import varied
from scfl_green.runs.wandb_results import f1_by_type

# The curve of fine-tuning: its column in finetune.csv, its label, and what its cells were not used for.
ON_TEST = ("test_accuracy", "test accuracy (share of cells)", "Test cells chose nothing.")
ON_VALIDATION = ("validation_weighted_f1", "validation F1 (weighted, 0 to 1)", "Validation cells, not test cells.")


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
        if regime == "local":
            lines = "means over sites and runs; bands: their range"
        caption = f"Lines: {lines}. Validation cells, not test cells. {count(runs)}"
        draw = partial(learning.curves, rows, labels=labels)
        title = f"{of.data}: learning curves, {NAMED.get(str(regime), regime)}"
        yield of.drawing(f"{regime}_curves", title, caption, draw)


def draw_types(of: Runs) -> Iterator[Drawing]:
    """F1 by cell type of every framework without optimisation, and what the best of these takes for what."""
    runs = _one_regime(of)
    found = {model: learning.read_confusion(of.folder, repeats(group)) for model, group in runs.groupby("model")}
    found = {model: confused for model, confused in found.items() if len(confused) > 1}
    if not found:
        return
    scores = pd.DataFrame({model: f1_by_type(counts).set_index("type")["f1"] for model, counts in found.items()})
    best = str(scores.mean().idxmax())
    n = style.counted([len(repeats(group)) for _, group in runs.groupby("model")])
    caption = f"Points: F1 on the test cells of all runs of a method together ({n}); {runs['regime'].iloc[0]}."
    yield of.drawing("types", f"{of.data}: F1 by cell type ({n})", caption, partial(learning.types, scores))
    caption = f"Of each true type's test cells, the share taken for each type; all runs of {best} together ({n})."
    title = f"{of.data}, {best}: what is taken for what ({n})"
    yield of.drawing("confusion", title, caption, partial(learning.confusion, found[best]))


def draw_sites(of: Runs) -> Iterator[Drawing]:
    """What every site gets from each regime, a figure a framework."""
    for model, of_model in of.plain.groupby("model"):
        runs = pd.concat([repeats(group) for _, group in of_model.groupby("regime")])
        rows = tested.read_sites(of.folder, runs.assign(line=runs["regime"].replace(NAMED)))
        if rows.empty or rows["site"].nunique() < 2:
            continue
        n = style.counted(rows.groupby("line")["seed"].nunique())
        spread = "means of the runs; whiskers: their range" if rows["seed"].nunique() > 1 else "one run each"
        most, least = f"{rows['cells_test'].max():,}", f"{rows['cells_test'].min():,}"
        caption = f"Points: {spread} ({n}). A site has {least} to {most} test cells."
        title = f"{of.data}, {model}: scores by site ({n})"
        yield of.drawing(f"{model}_sites", title, caption, partial(tested.sites, rows))


def draw_calibration(of: Runs) -> Iterator[Drawing]:
    """How far the frameworks can be trusted to know what they do not know, of the same runs as ``draw_types``."""
    runs = _one_regime(of)
    read = {str(model): tested.read_calibration(of.folder, repeats(group)) for model, group in runs.groupby("model")}
    found = {model: rows for model, rows in read.items() if len(rows)}
    if not found:
        return
    n = style.counted([rows["seed"].nunique() for rows in found.values()])
    caption = (
        "Points: test cells of all runs of a method together, in 15 bins of confidence, the probability of the "
        "predicted type; the larger, the more cells. Below the dotted line, predictions are surer than right. ECE: "
        f"expected calibration error, the mean distance from that line over cells; mean over runs ({n}); "
        f"{runs['regime'].iloc[0]}."
    )
    title = f"{of.data}: confidence and accuracy ({n})"
    yield of.drawing("calibration", title, caption, partial(tested.calibration, found))


def _one_regime(of: Runs) -> pd.DataFrame:
    """The runs without optimisation of one regime: the federated ones if there are any."""
    regimes = of.plain["regime"].unique()
    return of.plain[of.plain["regime"] == ("federated" if "federated" in regimes else next(iter(regimes), ""))]


def draw_finetuning(of: Runs) -> Iterator[Drawing]:
    rows = learning.read_finetuning(of.folder, of.runs)
    if rows.empty:
        return
    n = style.counted(rows.groupby(["model", "arm"])["seed"].nunique())
    # Without finetuning.curve there are none on test cells; without validation cells, none on those.
    on_test = "test_accuracy" in rows and rows["test_accuracy"].notna().all()
    value, label, note = ON_TEST if on_test else ON_VALIDATION
    curves = rows.rename(columns={"epoch": "step", value: "value", "arm": "line", "model": "panel"})
    curves = curves.dropna(subset="value")
    caption = f"Lines: means over runs; bands: their range ({n}). Epoch 0: the untouched model. {note}"
    draw = partial(learning.curves, curves, labels=("epoch", label))
    if len(curves):
        yield of.drawing("epochs", f"{of.data}: {label.partition(' (')[0]} by epoch at a newcomer", caption, draw)
    last = rows.groupby(["model", "arm", "seed"], sort=False)[["emissions_g"]].max().reset_index()
    caption = bars_caption(rows.groupby(["model", "arm"])["seed"].nunique())
    draw = partial(figures.bars, last, "arm", measures=("emissions_g",))
    yield of.drawing("finetune_emissions", f"{of.data}: emissions, fine-tuned and from scratch", caption, draw)
