"""What the comparisons of a sweep leave undecided, and the seeds that may decide it."""

from dataclasses import dataclass

import pandas as pd

from scfl_green.analysis.results import axes, looks, method
from scfl_green.analysis.tables import compare


@dataclass(frozen=True)
class Cell:
    """Methods that a table compares with each other, decided if one wins or the best are shown to be equal."""

    name: str
    runs: pd.DataFrame
    seeds: int  # that all of the methods have
    decided: bool
    detectable: float  # ratio, of the two that are hardest to tell apart

    def next_seed(self, max_seeds: int) -> int | None:
        """The first seed from 1 that a method lacks; None where there is none up to ``max_seeds``."""
        by_seed, methods = self.runs.groupby("seed").size(), self.runs.groupby(method(self.runs)).ngroups
        return next((seed for seed in range(1, max_seeds + 1) if by_seed.get(seed, 0) < methods), None)


def cells(results: pd.DataFrame, over: str | None = None) -> list[Cell]:
    """The cells of the comparison by ``over``, or of all that the report makes."""
    trained = results[results["regime"] != "finetune"]
    if over is None:
        return [cell for axis in axes(trained) for cell in cells(trained, axis)]
    if (table := compare(trained, over)).empty:
        return []
    others = [column for column in method(trained) if column != over]
    apart = [column for column in others if trained[column].nunique() > 1]
    found = []
    for place, rows in table.groupby(others):
        keys = pd.Series(dict(zip(others, place, strict=True)))
        tied = rows[rows["best"] == "ties"]
        name = " · ".join(str(keys[column]) for column in apart)
        runs = trained[(trained[others] == keys).all(axis=1)]
        found.append(Cell(name, runs, int(rows["runs"].iloc[0]), tied.empty, float(tied["detectable ratio"].max())))
    return found


def next_seeds(results: pd.DataFrame, max_seeds: int) -> dict[str, int]:
    """The seed that an undecided cell needs of a method, by the folder of any run of that method."""
    needed: dict[str, int] = {}
    for cell in cells(results):
        seed = None if cell.decided else cell.next_seed(max_seeds)
        for _, runs in cell.runs.groupby(method(results)):
            if seed is not None and seed not in set(runs["seed"]):
                needed |= {folder: min(seed, needed.get(folder, seed)) for folder in runs["folder"]}
    return needed


def decisions(results: pd.DataFrame) -> list[str]:
    """Of every method of ``tables.summarise``, in its order: whether all its comparisons are decided, and if not,
    whether ``max_seeds`` ended it; empty where it is compared with nothing."""
    states = ["", "decided", "undecided", "undecided, at max_seeds"]
    state = pd.Series(0, index=results.index)
    for cell in cells(results):
        found = 1 if cell.decided else 2 + (cell.seeds >= _limit(results))
        state[cell.runs.index] = state[cell.runs.index].clip(lower=found)
    return [states[worst] for worst in state.groupby([results[column] for column in method(results)]).max()]


def told(results: pd.DataFrame, over: str) -> str:
    """How many seeds the cells of a comparison took, and which it could not decide; empty for a sweep that does not add
    seeds."""
    if looks(results) == 1 or not (found := cells(results, over)):
        return ""
    took = sorted({cell.seeds for cell in found})
    left = "; ".join(_left(cell, _limit(results)) for cell in found if not cell.decided)
    range_of_seeds = f"{took[0]}" if len(took) == 1 else f"{took[0]} to {took[-1]}"
    return (
        f"Seeds were added as long as a comparison was undecided, up to {_limit(results):.0f}; here they took "
        f"{range_of_seeds}. Intervals and p-values hold for all {looks(results)} looks "
        f"together (Bonferroni). {f'Undecided: {left}.' if left else 'All are decided.'}"
    )


def _left(cell: Cell, limit: float) -> str:
    told = f"{cell.name or 'all methods'} after {cell.seeds} seeds" + (", the limit" if cell.seeds >= limit else "")
    known = cell.detectable < float("inf")
    return told + (f" (differences under {cell.detectable - 1:.0%} cannot be told)" if known else "")


def _limit(results: pd.DataFrame) -> float:
    return float(results["max_seeds"].max()) if "max_seeds" in results else float("inf")
