"""What sites gain by joining, from the files of runs."""

from pathlib import Path

import pandas as pd
import pytest

from scfl_green.analysis.joining import gained


def left_by(folder: Path, regime: str, seed: int, **accuracy: float) -> dict[str, object]:
    (folder / f"{regime}-{seed}").mkdir()
    sites = pd.DataFrame({"site": [*accuracy], "accuracy": [*accuracy.values()], "macro_f1": 0.5})
    sites.to_csv(folder / f"{regime}-{seed}" / "sites.csv", index=False)
    return {
        "data": "d", "model": "actinn", "opt": "baseline", "regime": regime, "seed": seed, "folder": f"{regime}-{seed}",
    }  # fmt: skip


def test_a_site_gains_what_the_federation_is_better_there(tmp_path: Path) -> None:
    runs = [
        left_by(tmp_path, "local", 1, a=0.8, b=0.9),
        left_by(tmp_path, "federated", 1, a=0.9, b=0.8),
        left_by(tmp_path, "local", 2, a=0.6, b=0.9),
        left_by(tmp_path, "federated", 2, a=0.8, b=0.8),
        left_by(tmp_path, "federated", 3, a=0.1, b=0.1),  # without its seed alone
        left_by(tmp_path, "central", 1, a=1.0, b=1.0),
    ]
    table = gained(tmp_path, pd.DataFrame(runs)).set_index("site")
    assert table.loc["a", "accuracy alone"] == pytest.approx(0.7)
    assert table["accuracy, gain in points"].to_dict() == pytest.approx({"a": 15.0, "b": -10.0})
    assert table["± accuracy, gain"].to_dict() == pytest.approx({"a": 50**0.5, "b": 0.0}, abs=1e-9)
    assert (table["macro F1, gain in points"] == 0).all()


@pytest.mark.parametrize("regime", ["local", "federated"])
def test_one_of_both_alone_tells_nothing(tmp_path: Path, regime: str) -> None:
    assert gained(tmp_path, pd.DataFrame([left_by(tmp_path, regime, 1, a=0.8)])).empty
