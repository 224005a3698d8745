"""The HTML page of a report: one self-contained file."""

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from scfl_green.analysis.drawing import Drawing
from scfl_green.analysis.figures.style import written
from scfl_green.files import write_atomically

SVG = "http://www.w3.org/2000/svg"
# Black and the white between bars follow the page's colours, of which there are two sets.
FOLLOWING = {"#000000": "currentColor", "#ffffff": "var(--page)"}
POINT = "point:"  # begins the names of points that say what they are when touched
ET.register_namespace("", SVG)
ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")


def render(**contents: Any) -> bytes:
    """The page from its template; everything but figures is escaped."""
    loader = ChoiceLoader(
        [PackageLoader("scfl_green.analysis", "template"), PackageLoader("scfl_green.share", "template")]
    )
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["written"] = written
    files = {"script": "sortable.min.js", "network_script": "network.js", "style": "page.css"}
    own = {name: Markup(loader.get_source(environment, file)[0]) for name, file in files.items()}
    return environment.get_template("report.html").render(**contents, **own).encode()


def draw(drawing: Drawing, folder: Path, number: int) -> dict[str, Any]:
    """Write a figure as SVG, PDF and PNG; gives what the page shows of it, for wide and for narrow windows."""
    wide, narrow = drawing.draw(False), drawing.draw(True)
    write_figure(wide, folder / drawing.name, ("png", "pdf"))
    svg = _svg(wide)
    write_atomically(folder / f"{drawing.name}.svg", svg.encode())
    shown = {"wide": _embedded(svg, f"w{number}"), "narrow": _embedded(_svg(narrow), f"n{number}")}
    return {"name": drawing.name, "title": drawing.title, "caption": drawing.caption} | shown


def write_figure(figure: Figure, path: Path, endings: Sequence[str]) -> None:
    """A figure in files of these kinds: the same figure gives the same bytes."""
    for ending in endings:
        metadata = {"pdf": {"CreationDate": None}, "png": {"Software": None}}[ending]
        figure.savefig(f"{path}.{ending}", metadata=metadata)


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    root = ET.fromstring(text.getvalue())
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    for group in root.iter(f"{{{SVG}}}g"):
        if group.get("id", "").startswith(POINT):
            name = ET.Element(f"{{{SVG}}}title")
            name.text = group.attrib.pop("id").removeprefix(POINT)
            group.insert(0, name)
    return ET.tostring(root, encoding="unicode")


def _embedded(svg: str, prefix: str) -> Markup:
    """An SVG as an element of the page: names of its own, and no colour of paper."""
    for find, put in ((r'\bid="', f'id="{prefix}-'), (r'href="#', f'href="#{prefix}-'), (r"url\(#", f"url(#{prefix}-")):
        svg = re.sub(find, put, svg)
    for colour, following in FOLLOWING.items():
        svg = svg.replace(colour, following)
    return Markup(svg)  # made by matplotlib, which escapes names


def table(name: str, title: str, note: str, rows: pd.DataFrame) -> dict[str, Any]:
    """What the page shows of a table: heads, and cells as written and as they are sorted."""
    cells = [[(_cell(value), _key(value)) for value in row] for row in rows.itertuples(index=False, name=None)]
    return {"name": name, "title": title, "note": note, "heads": list(map(str, rows.columns)), "rows": cells}


def write_table(folder: Path, name: str, rows: pd.DataFrame) -> None:
    """A table beside the page, as CSV and as LaTeX."""
    write_atomically(folder / f"{name}.csv", rows.to_csv(index=False).encode())
    latex = rows.map(_cell).to_latex(index=False, escape=True)
    write_atomically(folder / f"{name}.tex", latex.encode())


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, float):
        return written(value)
    return f"{value:,}" if isinstance(value, int | np.integer) and not isinstance(value, bool) else str(value)


def _key(value: Any) -> str | None:
    return f"{value!r}" if isinstance(value, int | float) and not isinstance(value, bool) else None
