"""Decides which methods of a sweep need another seed."""

from collections.abc import Collection
from pathlib import Path

from scfl_green.analysis.collect import collect
from scfl_green.analysis.results import method, read_results
from scfl_green.analysis.undecided import cells, next_seeds


def needed_seeds(folder: Path, firsts: Collection[str], max_seeds: int) -> dict[str, int]:
    """The seed that each method of a sweep needs next, by the folder of its first run; none where all is decided or has
    ``max_seeds``. Methods without a first run in ``firsts`` are of another sweep."""
    collect(folder)
    results = read_results(folder)
    keys = method(results)
    own = results.merge(results.loc[results["folder"].isin(firsts), keys], on=keys)
    found = cells(own)
    undecided = [cell for cell in found if not cell.decided]
    needed = {name: seed for name, seed in next_seeds(own, max_seeds).items() if name in firsts}
    if found:
        after = f"after {max(cell.seeds for cell in undecided or found)} seeds"
        then = f": {len(needed)} jobs more" if needed else ", the limit (max_seeds)" if undecided else ""
        print(f"{len(undecided)} of {len(found)} comparisons undecided {after}{then}", flush=True)
    return needed
