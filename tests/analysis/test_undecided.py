"""What is undecided, and which seeds are run for it: on drawn runs of a sweep whose noise is known."""

import numpy as np
import pandas as pd
import pytest

from scfl_green.analysis.results import looks
from scfl_green.analysis.tables import compare
from scfl_green.analysis.undecided import cells, decisions, next_seeds, told

OPTS = ("baseline", "small_batch", "prune")


def made(rng: np.random.Generator, seeds: int, noise: float = 0.02, regimes: tuple[str, ...] = ("central",), **factor):
    """Runs of three opts, which have ``factor`` times the EAPS of the baseline, in a sweep of 3 to 10 seeds."""
    rows = [
        {"data": "pancreas", "regime": regime, "model": "actinn", "opt": opt, "split": "donor", "seed": seed}
        | {"eaps": 1e5 * factor.get(opt, 1) * np.exp(rng.normal(0, noise)), "folder": f"{regime}-{opt}-s{seed}"}
        for regime in regimes
        for opt in OPTS
        for seed in range(1, seeds + 1)
    ]
    return pd.DataFrame(rows).assign(seeds=3, max_seeds=10)


@pytest.fixture
def results() -> pd.DataFrame:
    """Central: a clear winner after four seeds. Federated: noise alone."""
    rng = np.random.default_rng(0)
    clear = made(rng, 4, small_batch=0.5, prune=2.0)
    return pd.concat([clear, made(rng, 4, noise=0.2, regimes=("federated",))], ignore_index=True)


def test_only_undecided_cells_need_a_seed_and_then_of_all_their_opts(results: pd.DataFrame) -> None:
    assert looks(results) == 8
    assert [(cell.name, cell.seeds, cell.decided) for cell in cells(results)] == [
        ("central", 4, True),
        ("federated", 4, False),
    ]
    firsts = {name: seed for name, seed in next_seeds(results, 10).items() if name.endswith("s1")}
    assert firsts == {f"federated-{opt}-s1": 5 for opt in OPTS}
    assert decisions(results) == ["decided"] * 3 + ["undecided"] * 3


def test_seeds_that_were_interrupted_are_completed(results: pd.DataFrame) -> None:
    lost = results[~results["folder"].isin(["federated-prune-s4", "central-prune-s1"])]
    needed = next_seeds(lost, 10)
    assert {name for name in needed if name.startswith("fed")} == {f"federated-prune-s{seed}" for seed in (1, 2, 3)}
    assert set(needed.values()) == {4}
    assert [cell.seeds for cell in cells(lost)] == [3, 3]


def test_the_limit_ends_it_and_the_report_says_so(results: pd.DataFrame) -> None:
    assert "here they took 4. Intervals and p-values hold for all 8 looks together (Bonferroni). " in told(
        results, "opt"
    )
    assert next_seeds(results, 4) == {}
    limited = results.assign(max_seeds=4)
    assert decisions(limited)[3:] == ["undecided, at max_seeds"] * 3
    assert "Undecided: federated after 4 seeds, the limit (differences under " in told(limited, "opt")
    assert told(results.drop(columns=["seeds", "max_seeds"]), "opt") == ""


def test_practically_equal_methods_are_decided() -> None:
    alike = made(np.random.default_rng(1), 5, noise=0.002, small_batch=0.5, prune=1.001)
    assert compare(alike, "opt").set_index("opt")["best"].to_dict() == {
        "baseline": "equal",
        "prune": "equal",
        "small_batch": "",
    }
    assert next_seeds(alike, 10) == {}
    # Alike, but for noise that leaves open whether they are.
    assert set(compare(made(np.random.default_rng(1), 5, noise=0.1), "opt")["best"]) == {"ties"}


def test_what_is_detectable_is_found_beside_what_was_found_already() -> None:
    """Holm's next step: the ratio is adjusted for the comparisons that are left and for the looks."""
    table = compare(made(np.random.default_rng(2), 10, noise=0.05, small_batch=0.2), "opt").set_index("opt")
    only = made(np.random.default_rng(2), 10, noise=0.05, small_batch=0.2).query("opt != 'small_batch'")
    best = table.index[table["detectable ratio"].isna()].item()
    (other,) = {"baseline", "prune"} - {best}
    alone = compare(only, "opt").set_index("opt")
    assert table.loc[other, "detectable ratio"] == pytest.approx(alone.loc[other, "detectable ratio"])


@pytest.mark.slow
def test_a_sweep_without_differences_names_a_winner_in_one_of_twenty_at_most() -> None:
    """The whole rule: cells stop when they are decided, others go on to the limit; Holm over both, at every look."""
    rng, false, sweeps = np.random.default_rng(3), 0, 100
    for _ in range(sweeps):
        drawn = made(rng, 10, regimes=("central", "federated"))
        have = drawn[drawn["seed"] <= 3]
        while needed := {name: seed for name, seed in next_seeds(have, 10).items() if name.endswith("-s1")}:
            more = [f"{name.removesuffix('s1')}s{seed}" for name, seed in needed.items()]
            have = pd.concat([have, drawn[drawn["folder"].isin(more)]])
        false += bool((compare(have, "opt")["best"] == "wins").any())
    assert false / sweeps <= 0.05
