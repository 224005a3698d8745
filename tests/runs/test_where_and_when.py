"""A run whose sites have countries, and hours: what it records, exports and is reported as."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from conftest import compose_config
from scfl_green.analysis.collect import collect
from scfl_green.analysis.report import report
from scfl_green.analysis.results import read_results
from scfl_green.energy.country import carbon_intensity
from scfl_green.errors import InputError
from scfl_green.runs.run import run
from scfl_green.security.confidential import public

SITES = {"Fasolino et al. 2022": "DEU", "Muraro et al. 2016": "FRA", "Tosti et al. 2021": "DEU"}
G_PER_KWH = {"DE": [500] * 8 + [300] * 16, "FR": [50] * 24}
QUICK = ["federation.rounds=2", "federation.local_epochs=1", "data.n_genes=100", "logger=none", "trainer=cpu"]


@pytest.fixture(scope="module")
def clean_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run that begins at six, and may wait for three hours: the folder of its only sweep, and its record."""
    folder = tmp_path_factory.mktemp("where")
    rows = [f"{n},{zone},{value}" for zone, day in G_PER_KWH.items() for n, value in enumerate(day)]
    (folder / "hours.csv").write_text("\n".join(["hour,zone,g_per_kwh", *rows]))
    countries = "carbon.countries={" + ", ".join(f"{site}: {code}" for site, code in SITES.items()) + "}"
    hours = [f"carbon.intensity={folder}/hours.csv", "carbon.start=2024-06-01T06:00Z", "carbon.pue=1.25"]
    aware = ["federation=carbon_aware", "federation.strategy.slack_hours=3"]
    return folder, run(compose_config(folder, countries, *hours, *aware, *QUICK))


def test_the_record_weighs_each_site_and_hour(clean_run: tuple[Path, dict[str, Any]]) -> None:
    folder, record = clean_run
    assert (record["country"], record["countries"], record["pue"]) == ("DEU", SITES, 1.25)
    assert record["waited_hours"] == pytest.approx(2.0, abs=0.05)
    energy = pd.read_csv(folder / "run/energy.csv", keep_default_na=False)
    late = energy[(energy["round"] > 0) & (energy["client"] != "")]  # the server is at work before the wait, too
    of_site = late["client"].map(SITES).fillna("DEU").map({"DEU": 0.3, "FRA": 0.05})
    assert late["emissions_kg"].to_numpy() == pytest.approx((late["energy_kwh"] * of_site).to_numpy())
    tested = energy[energy["phase"] == "test"]
    energy = energy[~energy["phase"].isin(["calibrate", "test"])]  # after training, whose transfer is told
    gb = (energy["bytes_up"] + energy["bytes_down"]) / 1e9
    france, early = energy["client"] == "Muraro et al. 2016", energy["round"] == 0
    both_ends = 0.5 * early + 0.3 * ~early
    both_ends = both_ends.where(~france, (both_ends + 0.05) / 2)
    assert record["transfer_emissions_kg"] == pytest.approx((gb * both_ends).sum() * 0.002)
    assert record["emissions_kg"] == pytest.approx(record["energy_kwh"] * record["carbon_intensity_kg_per_kwh"])
    grams = (record["emissions_kg"] + record["transfer_emissions_kg"]) * 1e3
    assert record["emissions_g_per_model"] == pytest.approx(grams)
    assert tested["cells"].sum() == record["cells_test"]
    expected = tested["emissions_kg"].sum() * 1e6 / record["cells_test"]
    assert record["emissions_g_per_1000_cells"] == pytest.approx(expected)
    summary = " ".join((folder / "run/summary.txt").read_text().split())
    assert "DEU, FRA: 0." in summary
    assert "waited 2.0 h" in summary


# Of https://github.com/Boavizta/BoAmps/tree/main/model
REQUIRED = {
    "": ["task", "measures", "infrastructure"],
    "header": ["reportDatetime"],
    "task": ["taskStage", "taskFamily", "algorithms", "dataset"],
    "system": ["os"],
    "software": ["language"],
    "infrastructure": ["infraType", "components"],
    "environment": ["country"],
}


def test_boamps_has_what_its_schema_requires_and_the_records_energy(clean_run: tuple[Path, dict[str, Any]]) -> None:
    folder, record = clean_run
    text = (folder / "run/boamps.json").read_text()
    boamps = json.loads(text)
    for part, keys in REQUIRED.items():
        assert set(keys) <= set(boamps[part] if part else boamps), part
    assert [measure["powerConsumption"] for measure in boamps["measures"]] == [
        record["energy_kwh"],
        record["transfer_kwh"],
    ]
    assert all(measure["measurementMethod"] for measure in boamps["measures"])
    assert all({"dataUsage", "dataType"} <= data.keys() for data in boamps["task"]["dataset"])
    assert all({"componentType", "nbComponent"} <= part.keys() for part in boamps["infrastructure"]["components"])
    assert boamps["task"]["measuredAccuracy"] == record["accuracy"]
    assert not [name for name in (*SITES, str(folder)) if name in text]


def test_a_report_counts_as_the_record_and_elsewhere_as_that_country(clean_run: tuple[Path, dict[str, Any]]) -> None:
    folder, record = clean_run
    collect(folder)
    (here,) = read_results(folder).to_dict("records")
    for name in ("eaps", "eaps_cpu", "eaps_low_network", "eaps_high_network", "emissions_g_per_model"):
        assert here[name] == pytest.approx(record[name]), name
    (there,) = read_results(folder, carbon_intensity("SWE")).to_dict("records")
    kwh = record["energy_kwh"] + record["transfer_kwh"]
    assert there["emissions_g"] == pytest.approx(kwh * carbon_intensity("SWE") * 1e3)
    assert "emissions as in DEU, FRA" in report(folder).read_text()


def test_loggers_are_not_told_which_sites_there_are(clean_run: tuple[Path, dict[str, Any]]) -> None:
    shown = json.dumps(public({"carbon": {"countries": SITES, "pue": 1.25}, **clean_run[1]}))
    assert "1.25" in shown
    assert not [site for site in SITES if site in shown]


def test_other_hours_are_another_run(tmp_path: Path) -> None:
    def fingerprint(g_per_kwh: int) -> str:
        (tmp_path / "hours.csv").write_text("hour,g_per_kwh\n" + "".join(f"{n},{g_per_kwh}\n" for n in range(24)))
        quickest = [*QUICK, "federation.rounds=1", "regime=central", f"carbon.intensity={tmp_path}/hours.csv"]
        return run(compose_config(tmp_path / str(g_per_kwh), *quickest))["fingerprint"]

    assert fingerprint(100) != fingerprint(200)


def test_a_site_that_is_not_there_is_told_before_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no site 'Muraro 2016'; did you mean Muraro et al\. 2016\?"):
        run(compose_config(tmp_path, "carbon.countries={Muraro 2016: FRA}", *QUICK))
    assert not (tmp_path / "run/energy.csv").exists()
