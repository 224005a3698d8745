"""carbon_aware: FedAvg where nothing can be gained; else cleaner, fair, and waiting no longer than it may."""

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg, Strategy

from conftest import compose_config
from jobs import ONE, make_job, simulated
from scfl_green.data.reading.cells import Cells
from scfl_green.energy.intensity import Intensity
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.federated import CarbonAware
from scfl_green.federated.grid import LocalGrid
from scfl_green.federated.strategy import CheckedStrategy
from scfl_green.runs.run import run
from scfl_green.training.budget import CarbonBudget

PANCREAS = {
    "Fasolino et al. 2022": "DEU", "Muraro et al. 2016": "FRA",
    "Tosti et al. 2021": "POL", "Tritschler et al. 2022": "SWE",
}  # fmt: skip
ABCD = dict(zip("abcd", PANCREAS.values(), strict=True))
ASKED = ONE | {"min_train_nodes": 2}
START = {"w": np.ones((3, 4), dtype=np.float32)}


class Sites:
    """A federation of four sites whose training is made up; ``trained`` are those of each round, ``hours`` when."""

    def __init__(self, intensity: Intensity, cells: Mapping[str, int] | None = None, broken: str = "") -> None:
        self.meter = EnergyMeter(intensity, network_kwh_per_gb=1.0)
        self.trained: dict[int, str] = {}
        self.validated: dict[int, str] = {}
        self.hours: list[float] = []
        self.cells, app = cells or dict.fromkeys("abcd", 50), ClientApp()
        self.grid = LocalGrid(app, list("abcd"), self.meter)

        @app.train()
        def train(message: Message, context: Context) -> Message:
            name, number = "abcd"[context.node_id - 1], int(message.content["config"]["server-round"])
            self.trained[number] = self.trained.get(number, "") + name
            self.hours.append(intensity.clock.now())
            if name == broken and number < 4:
                return Message(Error(2, "RuntimeError"), reply_to=message)
            rng = np.random.default_rng([context.node_id, number])
            arrays = {k: Array(a.numpy() + rng.normal(size=a.shape).astype(np.float32)) for k, a in arrays_of(message)}
            told = MetricRecord({"num-examples": self.cells[name], "train/loss": 1.0 / number})
            return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": told}), reply_to=message)

        @app.evaluate()
        def evaluate(message: Message, context: Context) -> Message:
            number = int(message.content["config"]["server-round"])
            self.validated[number] = self.validated.get(number, "") + "abcd"[context.node_id - 1]
            told = MetricRecord({"num-examples": 5, "validation/loss": 1.0})
            return Message(RecordDict({"metrics": told}), reply_to=message)

    def train(self, strategy: Strategy, rounds: int, min_clients: int | None = 1) -> np.ndarray:
        if isinstance(strategy, CarbonAware):
            strategy.begin(self.meter, self.grid.clients, rounds)
        start = ArrayRecord({name: Array(value) for name, value in START.items()})
        result = CheckedStrategy(strategy, min_clients=min_clients).start(self.grid, start, num_rounds=rounds)
        self.meter.close()
        return result.arrays["w"].numpy()


def arrays_of(message: Message) -> list[tuple[str, Array]]:
    return list(message.content["arrays"].items())


def hourly(folder: Path, **g_per_kwh: list[float]) -> str:
    """A file of days that repeat, by zone."""
    rows = [f"{n},{zone},{value}" for zone, day in g_per_kwh.items() for n, value in enumerate(day)]
    (folder / "hours.csv").write_text("\n".join(["hour,zone,g_per_kwh", *rows]))
    return str(folder / "hours.csv")


WAVE = [round(300 + 250 * float(np.cos((n - 3) * np.pi / 12)) + 40 * (n % 5), 3) for n in range(24)]


def test_equal_intensities_give_fedavg_to_the_bit(few: Cells, meter: EnergyMeter, tmp_path: Path) -> None:
    free = simulated(make_job(few, meter), FedAvg(**ONE), rounds=3).weights
    for intensity in (Intensity("DEU"), Intensity("DEU", None, hourly(tmp_path, DE=WAVE), "2024-06-01T05:20Z")):
        meter.intensity = intensity
        aware = simulated(make_job(few, meter), CarbonAware(slack_hours=24.0, **ASKED), rounds=3)
        assert all((aware.weights[name] == free[name]).all() for name in free)
        assert aware.record["clients_by_round"] == [4, 4, 4]
    assert intensity.clock.waited_hours > 0


def test_four_sites_emit_a_third_less_and_each_trains_its_share(few: Cells, meter: EnergyMeter) -> None:
    meter.network_kwh_per_gb = 0.002
    emitted, trained = {}, {}
    for strategy in (FedAvg(**ONE), CarbonAware(**ASKED)):
        meter.entries, meter.intensity = {}, Intensity("DEU", PANCREAS)
        job = make_job(few, meter)
        simulated(job, strategy, rounds=6)
        meter.read()
        emitted[type(strategy)] = meter.trained().emissions_kg + meter.transfer()[1]
        fits = [entry for entry in meter.entries.values() if entry.phase == "fit" and entry.cells]
        trained[type(strategy)] = {name: sum(fit.client == name for fit in fits) for name in PANCREAS}
    assert emitted[CarbonAware] < 0.67 * emitted[FedAvg]
    assert min(trained[CarbonAware].values()) >= 2
    assert set(trained[FedAvg].values()) == {6}


@pytest.mark.parametrize("floor", [1 / 3, 0.5])
def test_at_any_time_every_site_has_trained_its_share(floor: float) -> None:
    sites = Sites(Intensity("DEU", ABCD), {"a": 500, "b": 50, "c": 20, "d": 100})
    sites.train(CarbonAware(floor=floor, **ASKED), rounds=15)
    for number in range(1, 16):
        so_far = "".join(sites.trained[n] for n in range(1, number + 1))
        assert min(so_far.count(name) for name in "abcd") >= floor * number - 1e-6
    assert sum(map(len, sites.trained.values())) < 0.75 * 4 * 15
    # Weights are validated where they are trained next, so that they travel once.
    assert {n: sites.validated[n - 1] for n in range(2, 16)} == {n: sites.trained[n] for n in range(2, 16)}
    assert 15 not in sites.validated


def test_the_sites_of_a_round_are_those_of_most_utility_per_gram() -> None:
    intensity = Intensity("SWE", ABCD)
    sites = Sites(intensity, {"a": 60, "b": 50, "c": 900, "d": 5})
    sites.train(CarbonAware(**ASKED), rounds=2)
    per_gram = {name: sites.cells[name] / intensity.between(name) for name in "abcd"}
    assert sites.trained[2] == "".join(sorted(sorted(per_gram, key=per_gram.__getitem__)[-2:])) == "bc"


def test_a_refused_site_is_asked_until_it_has_trained_its_share() -> None:
    sites = Sites(Intensity("DEU", ABCD), broken="c")
    sites.train(CarbonAware(**ASKED), rounds=6)
    assert all("c" in sites.trained[number] for number in (1, 2, 3, 4))


@pytest.mark.parametrize("start", ["00:00", "05:20", "13:45", "23:59"])
@pytest.mark.parametrize("slack", [0.0, 3.0, 24.0])
def test_waiting_is_within_two_percent_of_the_best_hours(tmp_path: Path, start: str, slack: float) -> None:
    """Against every way to put three rounds into the hours of the slack."""
    files = hourly(tmp_path, DE=WAVE, SE=[value / 9 for value in WAVE[6:] + WAVE[:6]])
    intensity = Intensity("DEU", dict.fromkeys("abcd", "DEU"), files, f"2024-06-01T{start}Z")
    begun = intensity.clock.now()
    sites = Sites(intensity)
    sites.train(CarbonAware(slack_hours=slack, validate_everywhere=True, **ASKED), rounds=3)
    waited = intensity.clock.waited_hours
    assert waited <= slack + 1e-3
    hours = [int(begun), *range(int(begun) + 1, int(begun + slack) + 1)]
    ways = itertools.combinations_with_replacement(hours, 3)
    best = min(sum(intensity.at("a", hour) for hour in way) for way in ways)
    assert sum(intensity.at("a", hour) for hour in sites.hours[::4]) <= 1.02 * best
    emitted, moved = sites.meter.transfer()[1], sum(sites.meter.moved()) / 1e9
    assert emitted <= 1.02 * moved * best / 3
    assert waited > 0 or slack < 24 or intensity.at("a", begun) == min(WAVE) / 1e3


def test_settings_that_do_not_fit_are_refused_before_training(few: Cells, meter: EnergyMeter) -> None:
    with pytest.raises(InputError, match="may ask as few as 2 sites; raise"):
        simulated(make_job(few, meter), CarbonAware(**ASKED), min_clients=3)
    with pytest.raises(InputError, match="fraction_train"):
        simulated(make_job(few, meter), CarbonAware(fraction_train=0.5, **ASKED))
    hooks = {"budget": CarbonBudget(grams=1.0)}
    with pytest.raises(InputError, match="validate_everywhere=true"):
        simulated(make_job(few, meter, hooks=hooks), CarbonAware(**ASKED))
    simulated(make_job(few, meter, hooks=hooks), CarbonAware(validate_everywhere=True, **ASKED))


@pytest.mark.slow
def test_on_pancreas_a_third_less_is_emitted_at_the_same_f1(tmp_path: Path) -> None:
    """Three seeds, with default settings but for the countries."""
    countries = "carbon.countries={" + ", ".join(f"{site}: {code}" for site, code in PANCREAS.items()) + "}"
    f1, grams = np.zeros((2, 3)), np.zeros((2, 3))
    for i, seed in itertools.product(range(2), range(3)):
        choice = f"federation={('fedavg', 'carbon_aware')[i]}"
        record = run(compose_config(tmp_path / f"{i}{seed}", choice, f"seed={seed + 1}", countries, "logger=none"))
        f1[i, seed], grams[i, seed] = record["weighted_f1"], record["emissions_g_per_model"]
    assert (grams[1] <= 0.7 * grams[0]).all()
    assert f1[1].mean() >= f1[0].mean() - 0.01
