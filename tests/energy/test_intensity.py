"""Carbon intensity by site and hour: files as they are exported, and what is refused."""

from pathlib import Path

import pytest

from scfl_green.energy.intensity import Intensity
from scfl_green.energy.ledger import Ledger, Reading
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError

SITES = {"Lund": "SWE", "Lyon": "FRA"}
MAPS = "Datetime (UTC),Country,Zone name,Zone id,Carbon intensity gCO₂eq/kWh (direct),{},Carbon-free energy percentage"
NEW, OLD = (MAPS.format(f"Carbon intensity gCO₂eq/kWh ({name})") for name in ("Life cycle", "LCA"))


def hour(iso: str) -> float:
    return Intensity("DEU", start=iso).clock.now()


def written(folder: Path, text: str, name: str = "hours.csv") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def maps_rows(zone: str, *g_per_kwh: float) -> str:
    return "".join(
        f"2024-06-01 {n:02}:00:00,Somewhere,Some zone,{zone},1,{value},50\n" for n, value in enumerate(g_per_kwh)
    )


@pytest.mark.parametrize("head", [NEW, OLD, OLD.title().replace("Co₂Eq/Kwh", "CO₂eq/kWh")])
def test_exports_of_electricity_maps_are_read_by_life_cycle(tmp_path: Path, head: str) -> None:
    files = [
        written(tmp_path, f"{head}\n{maps_rows(z, *g)}", f"{z}.csv") for z, g in [("DE", (400, 300)), ("FR", (50, 60))]
    ]
    intensity = Intensity("DEU", {"Lyon": "FRA"}, files, "2024-06-01T00:30Z")
    assert (intensity.at(), intensity.at("Lyon"), intensity.at("Kiel")) == (0.4, 0.05, 0.4)
    assert intensity.between("Lyon") == pytest.approx(0.225)
    assert intensity.at("Lyon", hour("2024-06-01T01:59Z")) == 0.06
    assert intensity.mean("", hour("2024-06-01T00:45Z"), hour("2024-06-01T01:30Z")) == pytest.approx(
        (400 + 2 * 300) / 3e3
    )


@pytest.mark.parametrize(
    "text",
    [
        "hour,zone,g_per_kwh\n2024-06-01T00:00Z,DEU,400\n2024-06-01T01:00Z,DEU,300\n",
        "hour;zone;g/kWh\n2024-06-01T02:00+02:00;DE;400\n2024-06-01T03:00+02:00;DE;300\n",
        "MTU (UTC),Zone,Carbon Intensity\n"
        + "".join(f"01.06.2024 0{h}:{q} - 01.06.2024 0{h}:{q},DE,{g}\n"
                  for h, g in ((0, 400), (1, 300)) for q in ("00", 15, 30, 45)),
        "Time (UTC),Carbon Intensity\n2024-06-01 00:00:00,390\n2024-06-01 00:30:00,410\n2024-06-01 01:00:00,300\n",
    ],
    ids=["plain", "semicolons and an offset", "ENTSO-E's quarters of an hour", "half hours of one zone"],
)  # fmt: skip
def test_other_tables_are_read(tmp_path: Path, text: str) -> None:
    intensity = Intensity("DEU", None, written(tmp_path, text), "2024-06-01T00:10Z")
    assert (intensity.at(), intensity.at("", hour("2024-06-01T01:10Z"))) == (pytest.approx(0.4), 0.3)


def test_a_day_without_dates_repeats(tmp_path: Path) -> None:
    text = "hour,g_per_kwh\n" + "".join(f"{n},{100 + n}\n" for n in range(24))
    intensity = Intensity("DEU", {"Kiel": "DEU"}, written(tmp_path, text), "2031-01-01T23:59Z")
    assert intensity.at() == 0.123
    intensity.clock.wait(1.0)
    assert intensity.at("Kiel") == 0.1
    assert intensity.clock.waited_hours == 1.0


DAY = "".join(f"{n},{100 + n}\n" for n in range(24))
BAD = {
    "hour,zone,g_per_kwh\n2024-06-01T00:00Z,DE,4\n2024-06-01T02:00Z,DE,3\n": "no row for hour 2024-06-01 01:00 UTC",
    "hour,zone,g_per_kwh\n2024-06-01T01:00Z,DE,4\n2024-06-01T00:00Z,DE,3\n": "line 3: zone DE: rows must be in order",
    "hour,zone,g_per_kwh\n2024-06-01T00:00Z,DE,4\n2024-06-01T00:00Z,DE,4\n": "each once",
    "hour,zone,g_per_kwh\n2024-06-01T00:00,DE,4\n": "the time zone of hour=2024-06-01T00:00 is not known",
    "MTU (CET/CEST),zone,g_per_kwh\n01.06.2024 00:00 - 01.06.2024 01:00,DE,4\n": "the time zone of MTU",
    "hour,zone,g_per_kwh\n2024-06-01T00:00Z,DE,\n": "line 2: '' is no carbon intensity",
    "hour,zone,g_per_kwh\n2024-06-01T00:00Z,DE,-4\n": "line 2: '-4' is no carbon intensity",
    "hour,zone,g_per_kwh\n2024-06-01T00:00Z,FR,50\n": "no hours of DEU; its zones are FR",
    "hour,zone,g_per_kwh\n2023-06-01T00:00Z,DE,50\n": "DEU is covered for 2023-06-01 00:00 UTC to 2023-06-01 00:00 UTC",
    "hour,zone,g_per_kwh\n2024-13-01T00:00Z,DE,50\n": "hour: ",
    "hour,zone,g_per_kwh\n": "it has no rows",
    "hour,zone,price\n0,DE,4\n": "no column of intensity among hour, zone, price",
    "hour,carbon_intensity\n" + "".join(f"{n},0.4\n" for n in range(24)): "look like kg/kWh",
    "hour,g_per_kwh\n" + DAY.replace("7,107\n", "", 1): "no row for hour 7; every hour is needed, 0 to 23",
    "hour,g_per_kwh\n" + DAY + "24,5\n": "hour 24",
    "": "a CSV file is expected",
}  # fmt: skip


@pytest.mark.parametrize("text", BAD)
def test_hours_that_cannot_be_used_are_refused_in_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError) as raised:
        Intensity("DEU", None, written(tmp_path, text), "2024-06-01T00:30Z")
    assert BAD[text] in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_without_zones_is_of_one_country(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no hours of .*it has no column of zones"):
        Intensity("DEU", SITES, written(tmp_path, "hour,g_per_kwh\n" + DAY))


def test_past_the_last_hour_the_day_before_counts_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = "".join(f"2024-06-0{1 + n // 24}T{n % 24:02}:00Z,{100 + n}\n" for n in range(30))
    intensity = Intensity("DEU", None, written(tmp_path, f"hour,g_per_kwh\n{rows}"), "2024-06-02T05:00Z")
    intensity.clock.wait(3.5)
    assert [intensity.at(), intensity.at()] == [0.108, 0.108]
    assert caplog.text.count("is not covered") == 1


def test_sites_and_their_countries_must_be_known() -> None:
    with pytest.raises(InputError, match=r"there is no site 'Lunt'; did you mean Lund\?.*Muraro et al"):
        Intensity("DEU", {"Lunt": "SWE"}).check_sites(["Lund", "Lyon"])
    with pytest.raises(InputError, match=r"of Lund, SE: .*did you mean SWE \(Sweden\)"):
        Intensity("DEU", {"Lund": "SE"})
    Intensity("DEU", {0: "SWE"}).check_sites(["0", "1"])  # a number on the command line


def test_energy_counts_as_at_its_site_and_transfer_as_at_both_ends() -> None:
    intensity, ledger = Intensity("DEU", SITES), Ledger()
    for client in ("Lund", "Kiel"):
        ledger.charge(("fit", 1, client), wall=1.0, cpu=1.0)
    for _ in range(2):
        ledger.share_out(Reading(4.0, 0.0, 0.0), intensity.at)
        ledger.charge(("fit", 1, "Lund"), wall=1.0, cpu=1.0)
    lund, kiel = (ledger.entries["fit", 1, client] for client in ("Lund", "Kiel"))
    assert lund.emissions_kg == pytest.approx(6.0 * intensity.at("Lund"))
    assert kiel.emissions_kg == pytest.approx(2.0 * intensity.at())
    meter = EnergyMeter(intensity, network_kwh_per_gb=0.5)
    try:
        meter.sent(("fit", 1, "Lund"), down=10**9)
        meter.sent(("validate", 1, "Kiel"), up=10**9)
        means = (intensity.at("Lund") + intensity.at()) / 2, intensity.at()
        assert meter.transfer() == (1.0, pytest.approx(0.5 * sum(means)))
        assert meter.transfer(2.0)[1] == pytest.approx(2.0 * sum(means))
    finally:
        meter.close()


def test_what_was_used_before_a_wait_counts_as_before_it(tmp_path: Path) -> None:
    text = "hour,g_per_kwh\n" + "".join(f"{n},{900 if n < 12 else 100}\n" for n in range(24))
    meter = EnergyMeter(Intensity("DEU", None, written(tmp_path, text), "2024-06-01T05:00Z"), pue=1.5)
    try:
        with meter.phase("fit", 1, "Kiel"):
            sum(range(3_000_000))
        meter.sent(("fit", 1, "Kiel"), down=10**9)
        meter.wait(10.0)
        with meter.phase("fit", 2, "Kiel"):
            sum(range(3_000_000))
        meter.sent(("fit", 2, "Kiel"), down=10**9)
        meter.read()
        before, after = (meter.entries["fit", number, "Kiel"] for number in (1, 2))
        assert before.emissions_kg == pytest.approx(before.energy_kwh * 0.9)
        assert after.emissions_kg == pytest.approx(after.energy_kwh * 0.1)
        assert (before.gb_kg_per_kwh, after.gb_kg_per_kwh) == (pytest.approx(0.9), pytest.approx(0.1))
        again = EnergyMeter(Intensity("DEU", None, written(tmp_path, text), "2030-06-01T05:00Z"))
        again.close()
        again.load_state_dict(meter.state_dict())
        assert again.intensity.clock.now() == pytest.approx(meter.intensity.clock.now(), abs=0.01)
        assert again.intensity.clock.waited_hours == 10.0
        assert again.total("fit").emissions_kg == meter.total("fit").emissions_kg
    finally:
        meter.close()


def test_pue_multiplies_what_computing_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    used = {}
    for pue in (1.0, 1.5):
        meter = EnergyMeter("DEU", cpu_watts=100, pue=pue, idle_watts=10, network_kwh_per_gb=1.0)
        readings, stop = [], meter._tracker.stop_task
        monkeypatch.setattr(meter._tracker, "stop_task", lambda: readings.append(stop()) or readings[-1])  # noqa: B023
        for client, work in (("a", 4_000_000), ("b", 1_000_000)):
            with meter.phase("fit", 1, client):
                sum(range(work))
        meter.sent(("fit", 1, "a"), down=10**9)
        meter.read()
        meter.wait_for_slowest(1)
        meter.close()
        measured = sum(entry.energy_kwh for entry in meter.entries.values() if entry.phase != "idle")
        assert measured == pytest.approx(pue * readings[0].energy_consumed)
        idle = meter.total("idle")
        used[pue] = idle.energy_kwh / idle.seconds, meter.transfer()[0]
    assert used[1.5] == (pytest.approx(1.5 * used[1.0][0]), used[1.0][1])
