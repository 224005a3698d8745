"""The page of an annotation: one HTML file that needs no network."""

import base64
import io
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from scfl_green.errors import InputError
from scfl_green.share.annotation import UNASSIGNED, Annotation

# Bins of confidence, and the most of what a page can show.
BINS, MOST_LABELS, MOST_GENES, MOST_POINTS = 10, 100, 60, 200_000
# Okabe & Ito 2008; matplotlib's tab20 where there are more types.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B5A900", "#8C6D31")
GREY = "#9A9A9A"


def check_labels(own: pd.Series, key: str) -> None:
    """InputError for a column that is not one of labels."""
    if (n := own.nunique()) > MOST_LABELS:
        raise InputError(f"label_key={key}: {n:,} different values; at most {MOST_LABELS} labels fit a table")


def page(annotation: Annotation, file: str, own: pd.Series | None, umap: np.ndarray | None) -> bytes:
    """The page: calls and confidence by type, genes found, the user's ``own`` labels against the calls, and a UMAP
    (cells x 2), if there is one."""
    loader = PackageLoader("scfl_green.share", "template")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    types, missing = _types(annotation.obs), annotation.about["genes_missing"]
    contents = {
        "file": file,
        "about": annotation.about,
        "notes": annotation.notes,
        "n_cells": len(annotation.obs),
        "types": types,
        "missing": list(missing[:MOST_GENES]),
        "n_missing": len(missing),
        "crossed": None if own is None else _crossed(annotation.obs, own, annotation.types),
        "maps": [] if umap is None else _maps(annotation.obs, umap, {row["name"]: row["colour"] for row in types}),
        "style": Markup(loader.get_source(environment, "page.css")[0]),
    }
    return environment.get_template("annotation.html").render(**contents).encode()


def _types(obs: pd.DataFrame) -> list[dict[str, Any]]:
    """A row for each call, by falling number of cells: its colour, its cells, and these by confidence."""
    rows = []
    for name, of_call in obs["confidence"].groupby(obs["call"], observed=True):
        bins = np.histogram(of_call.clip(0, 1), BINS, (0, 1))[0]
        mean = float(of_call.mean())
        rows.append({"name": str(name), "cells": len(of_call), "mean": mean, "bins": (bins / bins.max()).tolist()})
    rows.sort(key=lambda row: -row["cells"])
    for row, colour in zip(rows, _colours(len(rows)), strict=True):
        row["colour"] = GREY if row["name"] == UNASSIGNED else colour
    return rows


def _colours(n: int) -> list[str]:
    if n <= len(COLOURS):
        return [*COLOURS[:n]]
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["tab20"](number % 20)) for number in range(n)]


def _crossed(obs: pd.DataFrame, own: pd.Series, types: tuple[str, ...]) -> dict[str, Any]:
    """The user's labels (rows) against calls, and how many cells of the model's types are labelled alike."""
    own = own.astype(object).reset_index(drop=True).map(str)
    table = pd.crosstab(own, obs["call"].astype(str))
    known = own.isin(types)
    alike = (own == obs["label"].astype(str)) & known
    shares = table.div(table.sum(axis=1), axis=0)
    rows = [(name, list(zip(table.loc[name].tolist(), shares.loc[name].tolist(), strict=True))) for name in table.index]
    return {"heads": list(table.columns), "rows": rows, "known": int(known.sum()), "alike": int(alike.sum())}


def _maps(obs: pd.DataFrame, umap: np.ndarray, colours: dict[str, str]) -> list[tuple[str, str]]:
    """Pictures of a UMAP, coloured by call and by confidence: a caption and a PNG as text, each."""
    # Drawn in a random order, so that no type hides another, and no more than can be seen.
    shown = np.random.default_rng(0).permutation(len(umap))[:MOST_POINTS]
    calls = obs["call"].cat.categories.map(lambda name: colours.get(name, GREY)).to_numpy()[obs["call"].cat.codes]
    some = f" ({len(shown):,} of {len(umap):,} cells)" if len(shown) < len(umap) else ""
    by_confidence = {"c": obs["confidence"].to_numpy()[shown], "cmap": "viridis", "vmin": 0, "vmax": 1}
    return [
        (f"Calls{some}; colours as in the table.", _picture(umap[shown], {"c": calls[shown]})),
        (f"Confidence{some}.", _picture(umap[shown], by_confidence, bar=True)),
    ]


def _picture(places: np.ndarray, colour: dict[str, Any], bar: bool = False) -> str:
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(5, 4.4), layout="constrained")
    axes = figure.add_subplot()
    points = axes.scatter(places[:, 0], places[:, 1], s=min(12, max(0.5, 4e4 / len(places))), linewidths=0, **colour)
    axes.set_axis_off()
    axes.set_aspect("equal", "datalim")
    if bar:
        scale = figure.colorbar(points, shrink=0.5, aspect=12)
        scale.ax.tick_params(colors="#808080", labelsize=8)
        scale.outline.set_visible(False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=160, transparent=True, metadata={"Software": None})
    return base64.b64encode(picture.getvalue()).decode()
