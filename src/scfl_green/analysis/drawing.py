"""A figure with its caption, and the runs it shows."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from scfl_green.analysis.figures import style
from scfl_green.analysis.results import axes, method

MOST = 6  # colours that are told apart
NAMED = {"local": "each site alone"}  # regimes as a page names them, where it is otherwise


@dataclass(frozen=True)
class Drawing:
    """A figure to be drawn, wide or narrow, with its file's name and its caption."""

    name: str
    title: str
    caption: str
    draw: Callable[[bool], Figure]


@dataclass(frozen=True)
class Runs:
    """The runs of one dataset in a sweep's folder, and what the names of its figures begin with."""

    folder: Path
    data: str
    runs: pd.DataFrame
    prefix: str

    @property
    def trained(self) -> pd.DataFrame:
        return self.runs[self.runs["regime"] != "finetune"]

    @property
    def plain(self) -> pd.DataFrame:
        """The runs without optimisation; all, where there are none."""
        chosen = self.trained[self.trained["opt"] == "baseline"]
        return chosen if len(chosen) else self.trained

    def drawing(self, kind: str, title: str, caption: str, draw: Callable[..., Figure]) -> Drawing:
        return Drawing(f"{self.prefix}_{kind}", title, caption, lambda narrow: draw(title=title, narrow=narrow))


def main_axis(trained: pd.DataFrame) -> str | None:
    """What methods are compared by first: the opts, else a setting that was varied, else frameworks, else regimes."""
    return next(iter(axes(trained)), None)


def repeats(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of the first method among these: repeats of each other."""
    keys = method(runs)
    return runs[(runs[keys] == runs[keys].iloc[0]).all(axis=1)]


def count(runs: pd.DataFrame) -> str:
    """How many runs a method has, as captions say it."""
    return f"Runs of a method: {style.counted(runs.groupby(method(runs)).size())}."


def bars_caption(n: pd.Series) -> str:
    """What a bar, a dot and a whisker are; ``n`` are the runs behind each."""
    spread = (
        "; whiskers: standard deviation of the runs" if n.max() > 1 else ", without whiskers, since each is one run"
    )
    some = " (none where there is one)" if n.min() == 1 < n.max() else ""
    return f"Bars from zero, and large markers of scores: means; small dots: runs{spread}{some}; {style.counted(n)}."
