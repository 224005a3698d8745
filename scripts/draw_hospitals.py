"""Draws docs/_static/hospitals.png and the table of messages in docs/hospitals.md, from what `make hospitals` has left.

python scripts/hospitals.py hospitals && python scripts/draw_hospitals.py hospitals
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from scfl_green.sites.border import CROSSINGS

ROOT = Path(__file__).parents[1]
PAGE, PICTURE = ROOT / "docs/hospitals.md", ROOT / "docs/_static/hospitals.png"
BEGIN, END = "<!-- border: written by scripts/draw_hospitals.py -->", "<!-- /border -->"
SITE, SERVER, INK, MUTED = "#e3efe6", "#e4e9f5", "#1c2430", "#6b7480"


def sizes(folder: Path) -> dict[str, dict[str, dict[str, int]]]:
    """Bytes by site, kind of message and direction (in: to the site), as the sites have logged them."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for log in sorted(folder.glob("*/site/audit.jsonl")):
        of_site = found[log.parent.parent.name] = defaultdict(lambda: defaultdict(int))
        for line in map(json.loads, log.read_text().splitlines()):
            of_site[line["message"].removeprefix("query.")][line["direction"]] += line["bytes"]
    return found


def table(found: dict[str, dict[str, dict[str, int]]]) -> str:
    """The messages as a table, with the bytes of a site, the mean over sites."""
    lines = ["| message | the server tells | a site tells | why | kB to, from a site |", "|---|---|---|---|---|"]
    for one in CROSSINGS:
        to, back = (sum(of[one.message][way] for of in found.values()) / len(found) / 1e3 for way in ("in", "out"))
        lines.append(f"| `{one.message}` | {one.asks} | {one.tells} | {one.why} | {to:,.1f}, {back:,.1f} |")
    return "\n".join(lines)


def draw(found: dict[str, dict[str, dict[str, int]]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(10, 4.6))
    axes.set(xlim=(0, 10), ylim=(0, 4.6))
    axes.axis("off")
    box(axes, (3.6, 3.2, 2.8, 1.1), SERVER, "server", "names, numbers, sums, weights\nno cell, no matrix")
    width = 10 / len(found)
    for number, (name, of_site) in enumerate(found.items()):
        left = number * width + 0.15
        box(axes, (left, 0.2, width - 0.3, 1.25), SITE, name, "its own file, key,\nlimits and log")
        down, up = (sum(kind[way] for kind in of_site.values()) / 1e6 for way in ("in", "out"))
        middle = left + (width - 0.3) / 2
        start = 3.9 + 2.2 * (number + 0.5) / len(found)
        arrow(axes, (start, 3.2), (middle - 0.12, 1.45), f"{down:.1f} MB", -0.12, "right")
        arrow(axes, (middle + 0.12, 1.45), (start + 0.12, 3.2), f"{up:.1f} MB", 0.12, "left")
    figure.savefig(path, dpi=160, bbox_inches="tight")
    plt.close(figure)


def box(axes: Axes, place: tuple[float, float, float, float], colour: str, head: str, text: str) -> None:
    left, bottom, width, height = place
    axes.add_patch(
        FancyBboxPatch((left, bottom), width, height, boxstyle="round,pad=0,rounding_size=.12", fc=colour, ec=MUTED)
    )
    axes.text(left + width / 2, bottom + height - 0.3, head, ha="center", va="center", weight="bold", color=INK)
    axes.text(left + width / 2, bottom + 0.42, text, ha="center", va="center", color=INK, fontsize=8.5)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str, shift: float, side: str) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=MUTED, shrinkA=0, shrinkB=2))
    low, high = (start, end) if start[1] < end[1] else (end, start)
    axes.text(
        low[0] + (high[0] - low[0]) * 0.42 + shift, low[1] + (high[1] - low[1]) * 0.42, text, ha=side, va="center",
        fontsize=8.5, color=INK, bbox={"fc": "white", "ec": "none", "pad": 1.5},
    )  # fmt: skip


if __name__ == "__main__":
    left = sizes(Path(sys.argv[1] if len(sys.argv) > 1 else "hospitals"))
    draw(left, PICTURE)
    page = PAGE.read_text()
    before, after = page.index(BEGIN) + len(BEGIN), page.index(END)
    PAGE.write_text(f"{page[:before]}\n{table(left)}\n{page[after:]}")
