"""Laws that every figure keeps, held against what is drawn: for any sweep, wide and narrow."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

from scfl_green.analysis.drawings import drawings
from scfl_green.analysis.figures import style
from scfl_green.analysis.figures.style import numbers
from scfl_green.analysis.headline import headlines
from scfl_green.analysis.results import varied
from scfl_green.analysis.tables import compare

MODELS = ("actinn", "sccdcg", "scdlc", "scsmd")
OPTS = ("baseline", "mixed_precision", "reduce_complexity", "small_batch")
BOTH = ("central", "federated")
LONG = "a_client_of_a_hospital_with_a_long_name_"
FACTORS = {"reduce_complexity": 0.5, "small_batch": 1.7, "federated": 8.0}


def made(seeds: int = 3, scale: float = 1.0, **axes: Any) -> pd.DataFrame:
    """Results as they are read back: every combination of what varies, with settings between split and seed."""
    given = {
        "data": ["pancreas"],
        "model": ["actinn"],
        "opt": ["baseline"],
        "regime": ["federated"],
        "split": ["donor"],
    }
    given |= {key: list(values) for key, values in axes.items()}
    rng = np.random.default_rng(0)
    rows = []
    for values in itertools.product(*given.values(), range(1, seeds + 1)):
        row = dict(zip([*given, "seed"], values, strict=True))
        factor = float(np.prod([FACTORS.get(str(value), 1.0) for value in values]))
        rows.append(row | _numbers(rng, 1e-5 * scale * factor * (1 + MODELS.index(row["model"]))))
    return pd.DataFrame(rows)


def _numbers(rng: np.random.Generator, kwh: float) -> dict[str, Any]:
    f1, kwh = 0.9 + rng.normal(0, 0.01), kwh * np.exp(rng.normal(0, 0.05))
    eaps = f1 / kwh / 0.38
    used = {"energy_kwh": kwh, "energy_wh": kwh * 1e3, "transfer_wh": kwh * 900, "emissions_g": kwh * 380}
    moved = {"bytes_up": 40, "bytes_down": 40, "batch_size": 32, "folder": "run", "too_short": False}
    scores = {"accuracy": f1, "weighted_f1": f1, "macro_f1": f1 - 0.02, "seconds_fit": 3.0}
    return scores | used | moved | {"eaps": eaps, "eaps_training": eaps, "eaps_cpu": eaps}


def run_folder(folder: Path, clients: list[str], types: list[str], rounds: int = 3) -> None:
    """What a run leaves that figures are drawn from."""
    (folder / "run").mkdir(parents=True)
    places = list(itertools.product(range(1, rounds + 1), clients))
    energy = {"phase": "fit", "bytes_up": 1, "bytes_down": 1, "energy_cpu_kwh": 1e-6, "energy_gpu_kwh": 0}
    rows = [energy | {"round": r, "client": c, "energy_ram_kwh": 2e-6} for r, c in places]
    pd.DataFrame(rows).to_csv(folder / "run/energy.csv", index=False)
    curve = {"round": range(1, rounds + 1), "validation/weighted_f1": np.linspace(0.5, 0.9, rounds)}
    pd.DataFrame(curve).to_csv(folder / "run/metrics.csv", index=False)
    counts = np.eye(len(types), dtype=int) * 50 + np.arange(len(types))
    pd.DataFrame(counts, types, types).to_csv(folder / "run/confusion.csv", index_label="true")
    f1 = np.linspace(0.2, 1, len(clients))
    scores = {"site": clients, "cells_test": 50, "weighted_f1": f1, "elsewhere_weighted_f1": f1 / 2}
    pd.DataFrame(scores).to_csv(folder / "run/sites.csv", index=False)
    edges = np.arange(15) / 15
    sure = {"confidence_from": edges, "confidence": edges + 0.05, "accuracy": edges, "cells": range(15)}
    pd.DataFrame(sure).to_csv(folder / "run/calibration.csv", index=False)


# The other width breaks the same laws.
WIDTHS = [pytest.param(False, marks=pytest.mark.slow, id="wide"), pytest.param(True, id="narrow")]
SWEEPS: dict[str, dict[str, Any]] = {
    "default": {"seeds": 1},
    "grid": {"model": MODELS, "opt": OPTS, "regime": BOTH},
    "one_seed": {"model": MODELS, "opt": OPTS, "regime": BOTH, "seeds": 1},
    "small": {"model": MODELS[:2], "opt": OPTS[:2], "scale": 1e-4},
    "regimes": {"model": MODELS[:2], "regime": (*BOTH, "local"), "scale": 1e9},
    "learning_rate": {"model.optimizer.lr": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)},
    "strategy": {"federation": ("fedavg", "fedprox"), "opt": OPTS[::2]},
    "two_settings": {"data.n_genes": (100, 2000, 20000), "model.optimizer.lr": (1e-3, 1e-2), "regime": BOTH},
    "many_values": {"data.n_genes": tuple(range(100, 4100, 100))},
    "odd_names": {"federation": ("$a_1$ & <b>", LONG, LONG + "2", r"\mathdefault{x}")},
}


# The others draw the same figures of other numbers.
OFTEN = ("grid", "small", "regimes", "strategy", "many_values", "odd_names")


@pytest.mark.parametrize("narrow", WIDTHS)
@pytest.mark.parametrize(
    "sweep", [pytest.param(name, marks=[] if name in OFTEN else [pytest.mark.slow]) for name in SWEEPS]
)
def test_every_figure_of_every_sweep_keeps_the_laws(tmp_path: Path, sweep: str, narrow: bool) -> None:
    run_folder(tmp_path / sweep, ["one", "two", "three"], ["A cell", "B cell", "C cell"])
    found = drawings(tmp_path / sweep, made(**SWEEPS[sweep]))
    assert found
    assert len({drawing.name for drawing in found}) == len(found)
    for drawing in found:
        assert drawing.name.startswith(f"{sweep}_")
        keeps_the_laws(drawing.draw(narrow))
        assert "n = " in drawing.caption
        assert "standard deviation" not in drawing.caption or SWEEPS[sweep].get("seeds", 3) > 1


@pytest.mark.parametrize("narrow", WIDTHS)
def test_forty_sites_and_types_of_forty_letters_are_readable(tmp_path: Path, narrow: bool) -> None:
    names = [f"{LONG[:36]}{number:04}" for number in range(40)]
    run_folder(tmp_path / "many", names, [name.upper() for name in names], rounds=100)
    found = {drawing.name: drawing.draw(narrow) for drawing in drawings(tmp_path / "many", made(seeds=1))}
    wanted = {"actinn_energy", "actinn_rounds", "actinn_sites", "types", "confusion", "federated_curves", "calibration"}
    assert set(found) == {f"many_{name}" for name in wanted}
    for figure in found.values():
        keeps_the_laws(figure)
    for name in ("many_actinn_energy", "many_actinn_sites"):
        shown = [text.get_text() for text in found[name].axes[0].get_yticklabels()]
        assert len(set(shown)) == 40


def keeps_the_laws(figure: Figure) -> None:
    for dpi in (72, 150):  # letters have other widths
        figure.set_dpi(dpi)
        figure.draw_without_rendering()
        _all_inside(figure)
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            label, ticks = axis.get_label_text(), _ticks(axes, axis)
            assert label, "an axis without a label"
            assert ticks, "an axis without numbers"
            apart(ticks)
            if all(_is_number(text.get_text()) for text in ticks) and label not in UNITLESS:
                assert "(" in label or "." in label, f"no unit: {label}"
        apart([text for text in axes.texts if isinstance(text, Annotation)])
    assert "n = " in figure.get_suptitle()
    colours = max(len(_colours(axes)) for axes in figure.axes)
    assert colours < 2 or figure.legends, "colours without a legend"


def _all_inside(figure: Figure) -> None:
    for text in _texts(figure):
        box, whole = text.get_window_extent(), figure.bbox.padded(1)
        assert whole.contains(box.x0, box.y0), f"{text} leaves the canvas"
        assert whole.contains(box.x1, box.y1), f"{text} leaves the canvas"
        assert "mathdefault{1" not in text.get_text()


def _texts(figure: Figure) -> list[Text]:
    """All that is written: names and numbers of ticks, labels, annotations, titles, legends."""
    texts = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        texts += [axes.xaxis.label, axes.yaxis.label, axes.title, *axes.texts]
        texts += [*_ticks(axes, axes.xaxis), *_ticks(axes, axes.yaxis)]
    assert figure._suptitle is not None
    return [text for text in (*texts, figure._suptitle) if text.get_text().strip()]


def _ticks(axes: Axes, axis: Axis) -> list[Text]:
    """The labels of ticks that are drawn: those within the limits."""
    place = 0 if axis is axes.xaxis else 1
    low, high = sorted(axis.get_view_interval())
    slack = (high - low) * 1e-9
    labels = [*axis.get_ticklabels(which="major"), *axis.get_ticklabels(which="minor")]
    return [t for t in labels if t.get_text() and low - slack <= t.get_position()[place] <= high + slack]


UNITLESS = ("round", "epoch")


def apart(texts: list[Any]) -> None:
    boxes = [text.get_window_extent() for text in texts]
    for (one, a), (other, b) in itertools.combinations(zip(texts, boxes, strict=True), 2):
        assert not a.overlaps(b), f"{one} touches {other}"


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "").replace("−", "-"))
    except ValueError:
        return False
    return True


def _colours(axes: Axes) -> set[str]:
    lines = [
        line.get_color() for line in axes.lines if line.get_marker() not in ("None", ".", "") or line.get_ls() == "-"
    ]
    bars = [
        patch.get_facecolor() for container in axes.containers for patch in container if hasattr(patch, "get_width")
    ]
    return {str(colour) for colour in [*lines, *bars] if colour != "black"}


@pytest.mark.parametrize(("low", "high"), [(2.0, 3.0), (0.02, 0.3), (5.0, 900.0), (0.001, 5e4), (1.0, 1.0)])
def test_a_logarithmic_axis_has_numbers_that_can_be_read(low: float, high: float) -> None:
    figure, (axes,) = style.panels(1, True)
    axes.plot([low, high], [0, 1], "o")
    style.log_numbers(axes, pd.Series([low, high]))
    figure.draw_without_rendering()
    labels = [text.get_text() for text in _ticks(axes, axes.xaxis)]
    assert len(labels) >= 2 or low == high
    assert all(_is_number(label) for label in labels), labels


@pytest.mark.parametrize(
    ("value", "text"), [(20750.0, "20,750"), (0.00004123, "0.0000412"), (1.0, "1"), (0.9, "0.9"), (177144.2, "177,144")]
)
def test_numbers_are_written_without_powers(value: float, text: str) -> None:
    assert style.written(value) == text


def test_names_are_cut_but_stay_different() -> None:
    names = [LONG + "1" * n + LONG for n in range(5)]
    assert len(set(style.fitted(names))) == 5
    assert max(map(len, style.fitted(names))) <= style.LONGEST
    assert style.fitted(["short"]) == ["short"]


def test_an_ablation_is_compared_by_its_values() -> None:
    results = made(**SWEEPS["learning_rate"])
    assert varied(results) == ["model.optimizer.lr"]
    table = compare(results, "model.optimizer.lr")
    assert list(table["model.optimizer.lr"]) == [1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
    assert set(table["best"]) == {"ties"}
    assert compare(results, "opt").empty  # one method wins against nothing


def test_the_headline_has_an_interval_and_claims_no_more_than_it_shows() -> None:
    (sentence,) = headlines(made(**SWEEPS["grid"]))
    assert sentence.startswith("Reduce complexity: 1.9")
    assert "times the F1 per gram of CO2e of the baseline (1." in sentence
    assert sentence.endswith("on pancreas, federated, mean of 4 frameworks; n = 3 seeds.")
    (sentence,) = headlines(made(**SWEEPS["learning_rate"]))
    assert sentence.startswith("No difference shown: model.optimizer.lr=")
    (sentence,) = headlines(made(**SWEEPS["one_seed"]))
    assert "too few for an interval" in sentence
    (sentence,) = headlines(made(seeds=1))
    assert "macro F1" in sentence


def test_methods_without_a_common_seed_are_not_taken_for_repeats_of_one() -> None:
    both = made(seeds=1, model=["actinn", "scdlc"])
    both.loc[both["model"] == "scdlc", "seed"] = 2
    (sentence,) = headlines(both)
    best = both.loc[both["eaps"].idxmax()]
    assert sentence.startswith(f"{best['model']}, {best['regime']}, on pancreas (the most F1 per gram of 2 methods")
    assert f"accuracy {best['accuracy']:.3f}" in sentence
    assert "; n = 1 seed, " in sentence


def test_close_ticks_have_different_labels() -> None:
    axes = Figure().subplots()
    axes.plot([0, 1], [0.8895, 0.8912])
    numbers(axes.yaxis)
    labels = [axes.yaxis.get_major_formatter()(value, None) for value in axes.yaxis.get_majorticklocs()]
    assert len(set(labels)) == len(labels) > 2
