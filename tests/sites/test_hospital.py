"""A federation of hospitals is that of the simulation, to the bit, and each keeps to its own limits."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import pandas as pd
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from conftest import ROOT, compose_config
from scfl_green.data.wire import unpacked_text
from scfl_green.errors import InputError
from scfl_green.federated.messages import CLASS_NAME, failure, packed
from scfl_green.federated.strategy import QuorumError
from scfl_green.runs.run import run
from scfl_green.sites.border import CROSSINGS
from scfl_green.sites.spent import Spent
from scfl_green.training.survey import MOMENTS
from scfl_green.training.trained_model import TrainedModel
from sites.loop import Loop, linked, settings_of, studies

SHARED = ROOT.parent / "shared/data"
SAME = ("accuracy", "macro_f1", "calibration_error", "temperature", "cells_train", "train_flops", "cells_seen")
SHORT = (
    "federation.rounds=2",
    "federation.local_epochs=1",
    "data.n_genes=200",
    "logger=none",
    "federation.min_cells=0",
)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return studies(tmp_path_factory.mktemp("studies"))


@pytest.fixture(scope="module")
def files(four: dict[str, Path]) -> dict[str, Path]:
    """The two smallest of them."""
    return {name: four[name] for name in ("muraro", "tritschler")}


@pytest.fixture
def loop(tmp_path: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    with linked(monkeypatch, Loop(tmp_path / "sites", settings_of(files))) as loop:
        yield loop


def trained(folder: Path, *overrides: str) -> dict[str, Any]:
    cfg = compose_config(folder, *SHORT, *overrides)
    return run(cfg)


def weights_of(folder: Path) -> str:
    return hashlib.sha256((folder / "run" / "weights.safetensors").read_bytes()).hexdigest()


def compared(tmp_path: Path, files: dict[str, Path], *overrides: str) -> None:
    """Hospitals train what the simulation of their files trains, to the bit."""
    deployed = trained(tmp_path / "deployed", "data=sites", *overrides)
    unmasked = len(files) < 3 or "sites.masked=false" in overrides
    overrides = tuple(one for one in overrides if not one.startswith("sites."))
    paths = f"data.path=[{','.join(map(str, files.values()))}]"
    simulated = trained(tmp_path / "simulated", "data=h5ad", paths, *overrides)
    assert weights_of(tmp_path / "deployed") == weights_of(tmp_path / "simulated")
    for same in SAME:
        assert deployed[same] == simulated[same], same
    # The settings name other data, and a reply tells its energy; sums under masks cannot be compressed.
    if unmasked:
        assert deployed["bytes_up"] == pytest.approx(simulated["bytes_up"], rel=0.1)
        assert deployed["bytes_down"] == pytest.approx(simulated["bytes_down"], rel=0.02)
    else:
        assert deployed["bytes_prepare"] > 1.1 * simulated["bytes_prepare"]


def test_hospitals_train_what_the_simulation_of_their_files_trains(
    tmp_path: Path, files: dict[str, Path], loop: Loop
) -> None:
    compared(tmp_path, files)


@pytest.mark.deployed
@pytest.mark.parametrize(
    "overrides",
    [
        ("federation=fedprox", "sites.masked=false"),
        ("federation=fedadam", "model=scdlc"),
        ("model=scsmd", "federation.local_epochs=2"),
        ("model=sccdcg", "trainer.precision=bf16-mixed"),
        ("message=int3", "limits.only_masked=true"),
        ("genes=highly_variable", "data.standardise=true", "split.test=[muraro]"),
        ("opt=prune", "prune.after_round=1", "federation.rounds=3"),
    ],
    ids=" ".join,
)
def test_so_they_do_with_any_strategy_framework_and_message(
    tmp_path: Path, four: dict[str, Path], monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...]
) -> None:
    limits = {"only_masked": "limits.only_masked=true" in overrides}
    with linked(monkeypatch, Loop(tmp_path / "sites", settings_of(four, limits=limits))):
        compared(tmp_path, four, *(one for one in overrides if not one.startswith("limits.")))


@pytest.mark.deployed
def test_so_do_sites_whose_genes_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not SHARED.is_dir():
        pytest.skip("../shared is absent: no two sites whose genes differ")
    files = {name: SHARED / f"{name}.h5ad" for name in ("pbmc3k", "pbmc4k")}
    with linked(monkeypatch, Loop(tmp_path / "sites", settings_of(files))):
        compared(tmp_path, files, "data.n_genes=500")


def test_what_stays_is_told_nowhere_and_every_message_is_written_down(
    tmp_path: Path, files: dict[str, Path], loop: Loop
) -> None:
    heard: list[bytes] = []

    def overheard(name: str, message: Message) -> Message:
        heard.append(packed(message))
        reply = loop.answering[name](message, len(heard[-1]))
        heard.append(packed(reply))
        return reply

    loop.altered = overheard
    trained(tmp_path / "run", "data=sites")
    columns = ad.read_h5ad(files["tritschler"], backed="r").obs
    secret = [
        str(files["tritschler"]),
        "tritschler.h5ad",
        *columns["donor_id"].unique(),
        *columns.index[:50],
        "donor_id",
    ]
    assert not [word for word in secret for message in heard if word.encode() in message]

    def lines_of(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (tmp_path / "sites" / name / "audit.jsonl").read_text().splitlines()]

    lines = lines_of("tritschler")
    assert [line["direction"] for line in lines] == ["in", "out"] * (len(lines) // 2)
    assert {line["message"].removeprefix("query.") for line in lines} <= {one.message for one in CROSSINGS}
    assert len(heard) == sum(map(len, map(lines_of, loop.answering)))
    muraro = settings_of(files)[0].file().told()
    assert unpacked_text(muraro.about(fewest=10)["about"])["types"]["type B pancreatic cell"] is None


def test_every_site_ends_with_the_model_and_its_energy_is_its_own(
    tmp_path: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    countries = dict(zip(files, ("SWE", "POL"), strict=True))
    settings = [one.model_copy(update={"country": countries[one.name]}) for one in settings_of(files)]
    with linked(monkeypatch, Loop(tmp_path / "sites", settings)):
        record = trained(tmp_path / "run", "data=sites")
    energy = pd.read_csv(tmp_path / "run/run/energy.csv", keep_default_na=False)
    fits = energy[energy.phase == "fit"].groupby("client")[["emissions_kg", "energy_kwh", "cells"]].sum()
    assert list(fits.index) == sorted(files)
    intensity = fits.emissions_kg / fits.energy_kwh
    assert intensity["muraro"] < intensity["tritschler"] / 5
    # While a site waits it costs training nothing, and has a line of its own.
    between = energy[energy.phase == "between-messages"]
    assert set(between.client) >= set(files)
    trains = energy[energy.phase.isin(["fit", "messages", "aggregate"])]
    assert record["energy_kwh"] == pytest.approx(trains.energy_kwh.sum())
    for name in files:
        (kept,) = (tmp_path / "sites" / name / "models").iterdir()
        assert weights_of(tmp_path / "run") == hashlib.sha256((kept / "weights.safetensors").read_bytes()).hexdigest()
        model = TrainedModel.load(str(kept))
        assert not model.seen.clients  # of others
        spent = json.loads((tmp_path / "sites" / name / "spent.json").read_text())
        assert spent["emissions_g"] > 0


# What a server could ask for, and the words of a site's log.
GREEDY = {
    "10,000 epochs": (["federation.local_epochs=10000"], "federation.local_epochs=10000: at most 20"),
    "a strategy": (["federation.strategy._target_=flwr.serverapp.strategy.FedAvgM"], "not one of limits.strategies"),
    "a callback that writes": (
        ["+callbacks.x._target_=pytorch_lightning.callbacks.ModelCheckpoint"],
        "not one of limits.trusted",
    ),
    "code": (["model._target_=os.system"], "model._target_"),
}


@pytest.mark.parametrize("asked", GREEDY)
def test_a_site_refuses_what_is_beyond_its_limits_in_a_line(
    tmp_path: Path, loop: Loop, asked: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides, words = GREEDY[asked]
    # A server of bad intent has no checks of its own.
    monkeypatch.setattr("scfl_green.runs.settings.check", lambda config: None)
    short = [one for one in SHORT if one.partition("=")[0] not in {o.partition("=")[0] for o in overrides}]
    with pytest.raises(InputError, match="asked to tell, before training: muraro: RefusedError"):
        run(compose_config(tmp_path, *short, "data=sites", *overrides))
    refused = [record.message for record in caplog.records if record.message.startswith("refused: query.tell")]
    assert len(refused) == 2
    assert all(words in line and "\n" not in line for line in refused)
    assert not (tmp_path / "run" / "result.json").exists()


def test_an_unknown_question_is_answered_by_no_one(tmp_path: Path, loop: Loop) -> None:
    for kind in ("cells", "counts", "obs"):
        (node, *_), content = loop.get_nodes(), RecordDict({"question": ArrayRecord(), "config": ConfigRecord()})
        asked = Message(content, dst_node_id=node.node_id, message_type=f"query.{kind}")
        (reply,) = loop.send_and_receive([asked])
        assert reply.has_error()
        assert CLASS_NAME.fullmatch(reply.error.reason)


def test_a_site_that_has_trained_tells_no_products_of_genes(tmp_path: Path, loop: Loop) -> None:
    told: list[Message] = []

    def ask_more(name: str, message: Message) -> Message | None:
        if message.metadata.message_type == "query.test":
            content, node = RecordDict({**message.content}), message.metadata.dst_node_id
            told.append(loop.answering[name](Message(content, dst_node_id=node, message_type=f"query.{MOMENTS}"), 0))
        return None

    loop.altered = ask_more
    trained(tmp_path, "data=sites")
    assert {reply.error.reason for reply in told} == {"RefusedError"}


def test_grams_and_epsilon_are_spent_once(
    tmp_path: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = settings_of(files, limits={"emissions_g": 1e-9})
    with linked(monkeypatch, Loop(tmp_path / "sites", limited)), pytest.raises(QuorumError, match="needed"):
        trained(tmp_path / "one", "data=sites")
    private = settings_of(files, limits={"epsilon": 10})
    with linked(monkeypatch, Loop(tmp_path / "private", private)), pytest.raises(InputError, match="RefusedError"):
        trained(tmp_path / "two", "data=sites")
    (folder := tmp_path / "spent").mkdir()
    Spent(folder).begin(8.0)
    assert Spent(folder).epsilon == 8.0
    with linked(monkeypatch, Loop(tmp_path / "private", private)):
        budget = ("privacy=dp_sgd", "privacy.epsilon=6", "federation.rounds=1")
        assert trained(tmp_path / "three", "data=sites", *budget)["epsilon"] == 6
        with pytest.raises(InputError, match="RefusedError"):  # 4 are left
            trained(tmp_path / "four", "data=sites", *budget, "seed=2")


def test_a_site_that_was_started_again_goes_on_from_its_disk(
    tmp_path: Path, files: dict[str, Path], loop: Loop
) -> None:
    rounds: list[int] = []

    def killed(name: str, message: Message) -> Message | None:
        if name == "muraro" and message.metadata.message_type == "train":
            rounds.append(int(message.content["config"]["server-round"]))
            if len(rounds) == 1:
                loop.start(loop.answering[name].hospital.settings)
                return failure(message, ConnectionError())
        return None

    loop.altered = killed
    record = trained(tmp_path, "data=sites", "federation.min_clients=1")
    assert rounds == [1, 2]
    assert record["clients_by_round"] == [1, 2]


@pytest.mark.parametrize("wrong", ["labels", "genes", "version"])
def test_sites_that_cannot_train_together_are_told_before_training(
    tmp_path: Path, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    other = ad.read_h5ad(files["muraro"])
    if wrong == "labels":
        other.obs["cell_type"] = other.obs["cell_type"].astype(str).str.upper()
    if wrong == "genes":
        other.var_names = [f"ENSMUSG{number:011d}" for number in range(other.n_vars)]
        other.var["feature_name"] = [f"mouse{number}" for number in range(other.n_vars)]
    other.write_h5ad(path := tmp_path / "muraro.h5ad")
    if wrong == "version":
        monkeypatch.setattr("scfl_green.sites.limits.version", lambda package: "0.0.1")
    expected = {"labels": "differ only in spaces or case", "genes": "are in all files", "version": "RefusedError"}
    loop = Loop(tmp_path / "sites", settings_of(files | {"muraro": path}))
    with linked(monkeypatch, loop), pytest.raises(InputError, match=expected[wrong]):
        trained(tmp_path, "data=sites")


def test_settings_that_need_all_cells_in_one_place_are_refused(tmp_path: Path, loop: Loop) -> None:
    for override, words in (
        ("regime=central", "regime=federated"),
        ("split=iid", "split=donor"),
        ("split.newcomers=1", "sites.names"),
        ("split.test=donors", "list of sites"),
        ("split.test=[nowhere]", "the sites are muraro"),
    ):
        with pytest.raises(InputError, match=words):
            trained(tmp_path, "data=sites", override)


def test_a_site_can_be_the_test_set(tmp_path: Path, loop: Loop) -> None:
    record = trained(tmp_path, "data=sites", "split.test=[muraro]")
    assert record["clients"] == 1
    assert record["cells_test"] == 189
    assert pd.read_csv(tmp_path / "run/sites.csv")["site"].tolist() == ["muraro"]
