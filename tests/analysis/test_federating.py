"""What federating buys, from the files of runs."""

from pathlib import Path

import pandas as pd
import pytest

from scfl_green.analysis.federating import federating
from scfl_green.analysis.results import MEASURES


def left_by(folder: Path, regime: str, seed: int, macro_f1: float, by_step: list[float]) -> dict[str, object]:
    (folder / f"{regime}-{seed}").mkdir()
    table = pd.DataFrame({"step": range(1, len(by_step) + 1), "validation/accuracy": by_step})
    table.to_csv(folder / f"{regime}-{seed}" / "metrics.csv", index=False)
    best = by_step.index(max(by_step)) + 1
    return dict.fromkeys(MEASURES, 0.0) | {
        "data": "d", "model": "actinn", "opt": "baseline", "regime": regime, "split": "donor", "seed": seed,
        "folder": f"{regime}-{seed}",
        "macro_f1": macro_f1, "accuracy": macro_f1, "best_step": best, "bytes_up": 1e6, "bytes_down": 2e6,
        "emissions_g": 0.01, "eaps": 100.0, "too_short": False,
    }  # fmt: skip


def test_regimes_stand_side_by_side_with_the_rounds_to_central(tmp_path: Path) -> None:
    runs = [
        left_by(tmp_path, "central", 1, 0.9, [0.5, 0.9, 0.8]),
        left_by(tmp_path, "central", 2, 0.8, [0.5, 0.6, 0.8]),
        left_by(tmp_path, "federated", 1, 0.8, [0.6, 0.7, 0.9]),
        left_by(tmp_path, "federated", 2, 0.7, [0.6, 0.8, 0.9]),
        left_by(tmp_path, "local", 1, 0.6, [0.6]),
    ]
    (row,) = federating(tmp_path, pd.DataFrame(runs)).to_dict("records")
    assert row["macro F1 central"] == pytest.approx(0.85)
    assert (row["macro F1 federated"], row["macro F1 alone"]) == (pytest.approx(0.75), 0.6)
    assert row["95% interval federated"] == "0.115–1.385"  # .75 -+ 12.706 x .0707 / sqrt 2
    assert (row["MB"], row["mg CO2e"]) == (3.0, 10.0)
    assert row["rounds to 99% of central"] == 2.5  # the third round with seed 1, the second with seed 2


def test_federations_that_never_get_there_have_no_such_round(tmp_path: Path) -> None:
    runs = [left_by(tmp_path, "central", 1, 0.9, [0.9]), left_by(tmp_path, "federated", 1, 0.8, [0.6, 0.7])]
    assert "rounds to 99% of central" not in federating(tmp_path, pd.DataFrame(runs))


@pytest.mark.parametrize("regime", ["central", "federated"])
def test_one_regime_alone_tells_nothing(tmp_path: Path, regime: str) -> None:
    assert federating(tmp_path, pd.DataFrame([left_by(tmp_path, regime, 1, 0.8, [0.8])])).empty
