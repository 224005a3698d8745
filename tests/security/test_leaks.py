"""No data on patients, keys or this machine leaves: planted canaries are searched for in everything shared."""

import getpass
import json
import socket
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anndata as ad
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from omegaconf import OmegaConf

from conftest import ROOT, compose_config
from jobs import federate, make_job
from program import start_program
from scfl_green.data.reading.cells import Cells
from scfl_green.data.reading.file import Reading
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.federated.about import about_weights
from scfl_green.federated.grid import LocalGrid
from scfl_green.security.confidential import public, refuse_secret, refuse_secret_arguments, refuse_secrets, shown
from scfl_green.training.calibrate import calibrate
from wandb_file import configs, records

# Planted in: names of cells, donors in uns, values and name of a column, a path, the environment, the command line.
CELL, DONOR, CLIENT, COLUMN = "cnryCELL", "cnryDONOR", "cnryCLIENT", "cnryCOLUMN"
FILE, VARIABLE, ARGUMENT = "cnryFILE", "cnryVARIABLE", "cnryARGUMENT"
CANARIES = [CELL, DONOR, CLIENT, COLUMN, FILE, VARIABLE, ARGUMENT]
QUICK = ["federation.rounds=1", "federation.local_epochs=1", "data.n_genes=50", "trainer=cpu"]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    adata = ad.read_h5ad(ROOT / "src/scfl_green/data/packaged/pancreas.h5ad")[::4].copy()
    adata.obs_names = [f"{CELL}-{number}" for number in range(len(adata))]
    adata.obs[COLUMN] = adata.obs["Dataset"].astype(str).map(lambda name: f"{CLIENT} {name[:5]}").astype("category")
    adata.uns["donors"] = {"ids": [f"{DONOR}-{number}" for number in range(20)]}
    path = tmp_path_factory.mktemp("planted") / f"{FILE}.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def swept(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep of one job on that file, as a user starts it."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "configs").mkdir()
    overrides = [f"data.path={planted}", f"data.client_key={COLUMN}", f"+note={ARGUMENT}", "data=h5ad"]
    overrides += ["federation.min_cells=0"]
    more = ["+of_environment=${oc.env:SCFL_NOTE}", "name=planted", "seed=1", "logger=[wandb,csv,tensorboard,mlflow]"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCFL_NOTE", VARIABLE)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        ended = start_program(folder, "-m", *overrides, *more, *QUICK)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    return folder / "logs/sweeps/planted"


def holding(files: Iterator[Path], words: list[str]) -> list[tuple[str, str]]:
    return [
        (file.name, word) for file in files if file.is_file() for word in words if word.encode() in file.read_bytes()
    ]


def private_words(folder: Path) -> list[str]:
    return [*CANARIES, str(Path.home()), str(ROOT), str(folder), "/tmp", "train.py", "--multirun", sys.executable]


def test_nothing_that_is_uploaded_tells_of_people_paths_or_the_machine(swept: Path) -> None:
    (run,) = swept.glob("*/wandb/offline-run-*")
    files = [path for path in run.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".wandb", ".json"}
    private = private_words(swept)
    assert not holding(iter(files), private)
    (binary,) = run.glob("*.wandb")
    uploaded = "\n".join(map(str, records(binary)))
    assert not [word for word in private if word in uploaded]
    assert [record.run.host for record in records(binary) if record.run.run_id] == ["-"]
    assert "cnry" not in uploaded
    assert not list(swept.rglob("debug*.log"))


def test_no_other_logger_tells_more(swept: Path) -> None:
    from mlflow import MlflowClient

    files = [path for name in ("csv", "tensorboard") for path in swept.glob(f"*/{name}/*")]
    assert len(files) == 4
    assert not holding(iter(files), private_words(swept))
    client = MlflowClient(f"sqlite:///{swept.parents[1]}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("scfl-green").experiment_id])
    told = [run.info.run_name, run.info.user_id, *run.data.tags.values(), *run.data.params.values()]
    assert not [word for word in private_words(swept) if word in str(told)]
    assert not {getpass.getuser(), socket.gethostname()} & set(told)
    assert run.data.params["data/n_genes"] == "50"


def test_the_upload_is_still_useful(swept: Path) -> None:
    (config,) = configs(swept)
    assert (config["seed"], config["data"]["n_genes"], config["model"]["hidden"]) == (1, 50, [100, 50, 25])
    assert config["federation"]["strategy"]["_target_"] == "flwr.serverapp.strategy.FedAvg"
    assert set(config["data"]) & {"path", "client_key", "note", "of_environment", "source"} == {"source"}
    assert config["data"]["source"] == {"_target_": "scfl_green.data.files"}
    for name in ("cells", "sites"):
        (table,) = swept.rglob(f"{name}_*.table.json")
        assert [row[0] for row in json.loads(table.read_text())["data"]] == [1, 2, 3, 4]  # clients, by number
    (binary,), (fields,) = swept.rglob("*.wandb"), swept.rglob("record_*.table.json")
    summary = {item.key for record in records(binary) for item in record.summary.update}
    assert {"accuracy", "emissions_kg", "clients_by_round", "versions", "energy_mode"} <= summary
    assert "processor" not in summary
    assert "processor" not in fields.read_text()


SHARED = (
    "result.json",
    "model.json",
    "results.csv",
    "report.html",
    "metrics.csv",
    "summary.csv",
    "weights.safetensors",
)


def test_shared_files_have_no_paths_cells_or_variables(swept: Path) -> None:
    files = [path for path in swept.rglob("*") if path.name in (*SHARED, "energy.csv")]
    assert {path.name for path in files} == {*SHARED, "energy.csv"}
    assert not holding(iter(files), [CELL, DONOR, FILE, VARIABLE, str(Path.home()), str(ROOT), str(swept), "/tmp/"])
    (about,) = swept.rglob("model.json")
    hashes = json.loads(about.read_text())["trained_on"]["files"]
    assert [len(sha256) for sha256 in hashes] == [64]
    assert not [path for path in swept.rglob("*") if FILE in path.name or VARIABLE in path.name]
    assert "data.path=" in (swept / "report.html").read_text()


def test_no_message_to_the_server_tells_of_people_or_paths(
    planted: Path, meter: EnergyMeter, monkeypatch: pytest.MonkeyPatch
) -> None:

    cells = Cells.read([planted], Reading("cell_type", COLUMN))
    heard: list[bytes] = []
    answer = LocalGrid.answer

    def overheard(grid: LocalGrid, request: bytes) -> bytes:
        heard.extend([request, reply := answer(grid, request)])
        return reply

    monkeypatch.setattr(LocalGrid, "answer", overheard)
    monkeypatch.setenv("SCFL_NOTE", VARIABLE)
    job = make_job(cells, meter)
    weights = federate(job, rounds=1)
    assert calibrate(
        job, weights, [*job.split.clients.values()], partial(about_weights, n_workers=1, timeout_seconds=60)
    )
    assert len(heard) == 2 * (2 + 3) * 4
    assert CLIENT in "".join(job.split.clients)
    assert not [word for word in [*CANARIES, "cnry", "/tmp"] for message in heard if word.encode() in message]


def reply_to(error: BaseException, meter: EnergyMeter) -> tuple[Message, bytes]:
    """The server's view of a client that raises: the reply and its bytes."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        raise error

    grid = LocalGrid(app, [CLIENT], meter)
    heard: list[bytes] = []
    answer = grid.answer

    def overheard(request: bytes) -> bytes:
        heard.append(answer(request))
        return heard[-1]

    grid.answer = overheard  # type: ignore[method-assign]
    asked = Message(RecordDict({"config": ConfigRecord()}), dst_node_id=1, message_type="train")
    (reply,) = grid.send_and_receive([asked])
    return reply, heard[0]


class OfThisModule(ValueError):  # noqa: N818
    pass


def made_up(name: str, *bases: type) -> BaseException:
    return type(name, bases or (ValueError,), {})(f"donor {DONOR} in /data/{FILE}.h5ad")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyError(DONOR), "KeyError"),
        (FileNotFoundError(2, "no such file", f"/data/{FILE}"), "FileNotFoundError"),
        (OfThisModule(DONOR), "OfThisModule"),
        (made_up(DONOR), "ValueError"),
        (made_up(f"No file at /data/{FILE}"), "ValueError"),
        (made_up(f"{DONOR}\n{CELL}", KeyError), "KeyError"),
        (made_up(DONOR * 1000, OfThisModule), "OfThisModule"),
        (made_up("OfThisModule", KeyError), "KeyError"),
        (made_up(f"{DONOR}\u0430", Exception), "Exception"),
    ],
)
def test_an_exception_reaches_the_server_as_a_code_and_a_known_class(
    error: BaseException, reason: str, meter: EnergyMeter
) -> None:
    error.add_note(f"{CELL} {VARIABLE}")
    reply, wire = reply_to(error, meter)
    assert (reply.error.code, reply.error.reason) == (2, reason)
    assert not [word for word in [*CANARIES, "cnry"] if word.encode() in wire]


SECRETS = {
    "+wandb.api_key": "hunter2hunter2",
    "+logger.wandb.apiKey": "hunter2hunter2",
    "+WANDB_API_KEY": "hunter2hunter2",
    "+data.token": "hunter2hunter2",
    "+data.source.password": "hunter2hunter2",
    "+secret": "hunter2hunter2",
    "+model.client_secret": "hunter2hunter2",
    "+data.access-key": "hunter2hunter2",
    "+aws.credentials": "hunter2hunter2",
    "+db.passwd": "12345678",
    "+data.note": "0123456789abcdef0123456789abcdef01234567",
    "+data.hf": "hf_" + "abcDEF1234" * 4,
    "+data.gh": "ghp_" + "abcDEF1234" * 4,
    "+data.url": "https://me:hunter2hunter2@example.org/a.h5ad",
    "+data.address": "https://example.org/a.h5ad?token=hunter2hunter2",
    "+data.jwt": "eyJhbGciOiJIUzI1.eyJzdWIiOiIx.c2lnbmF0dXJl",
    "data": "{api_key: hunter2hunter2}",
}


@pytest.mark.parametrize("key", SECRETS)
def test_a_secret_is_refused_by_name_and_never_repeated(key: str) -> None:
    value = SECRETS[key]
    with pytest.raises(InputError, match="secret") as raised:
        refuse_secret_arguments(["model=actinn", f"{key}={value}"])
    assert value not in str(raised.value)
    assert "hunter2" not in str(raised.value)
    assert (key.strip("+") if key != "data" else "api_key") in str(raised.value) or "argument 2" in str(raised.value)
    for config in (
        OmegaConf.create({key.strip("+"): value}),
        OmegaConf.create({"a": [{"b": {key.strip("+"): value}}]}),
    ):
        if key != "data":
            with pytest.raises(InputError, match="secret") as raised:
                refuse_secrets(config)
            assert value not in str(raised.value)


@pytest.mark.parametrize("value", ["null", "", "true", None, False, "???"])
def test_a_key_without_a_value_holds_no_secret(value: Any) -> None:
    refuse_secret("wandb.api_key", value)


ORDINARY = [
    "data.label_key=cell_type",
    "data.gene_key=symbol",
    "+model.n_tokens=128",
    "+model.tokenizer=words",
    "+data.author=me",
    f"+data.source.fetch.sha256={'0123456789abcdef' * 4}",
    "data.path=/data/hf_files_of_this_hospital/task-learning.h5ad",
    "'data.path=[a.h5ad,b.h5ad]'",
    "model.optimizer.lr=1e-3",
]


@pytest.mark.parametrize("argument", ORDINARY)
def test_ordinary_overrides_are_no_secrets(argument: str) -> None:
    refuse_secret_arguments([argument])


def test_no_variable_that_is_a_secret_gets_into_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_KEY", "hunter2hunter2")
    for value in ("${oc.env:MY_API_KEY}", "x-${oc.env:MY_API_KEY}-y", "hunter2hunter2"):
        with pytest.raises(InputError, match=r"note: .* variable MY_API_KEY") as raised:
            refuse_secrets(compose_config(tmp_path, f"+note={value}"))
        assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("multirun", [[], ["-m"]])
def test_the_program_refuses_a_secret_before_anything_is_written(tmp_path: Path, multirun: list[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/extra.yaml").write_text("# @package _global_\nwandb: {token: hunter2hunter2}\n")
    for overrides in (["wandb.api_key=hunter2hunter2"], ["--config-dir", "mine", "+extra@_global_=extra", "seed=1"]):
        if "--config-dir" in overrides:
            (tmp_path / "mine/extra").mkdir(exist_ok=True)
            (tmp_path / "mine/extra.yaml").replace(tmp_path / "mine/extra/extra.yaml")
        ended = start_program(tmp_path, *multirun, *overrides)
        assert ended.returncode != 0
        assert ended.stderr.startswith("error: wandb.")
        assert len(ended.stderr.strip().splitlines()) == 1
        assert "hunter2" not in ended.stderr + ended.stdout
        assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"extra.yaml"}


def test_a_job_of_a_sweep_leaves_no_secret_of_its_own_choices(tmp_path: Path) -> None:
    (tmp_path / "mine/extra").mkdir(parents=True)
    for name, value in (("fine", "null"), ("leaky", "hunter2hunter2")):
        (tmp_path / f"mine/extra/{name}.yaml").write_text(f"# @package _global_\nwandb: {{token: {value}}}\n")
    ended = start_program(tmp_path, "--config-dir", "mine", "-m", "+extra=fine,leaky", "logger=none", *QUICK)
    assert ended.returncode != 0
    assert "wandb.token: it looks like a secret" in ended.stderr
    assert "hunter2" not in ended.stderr + ended.stdout
    assert not holding((tmp_path / "logs").rglob("*"), ["hunter2"])
    assert len([*tmp_path.rglob("result.json")]) == 1


def test_names_of_folders_hold_hashes_where_overrides_hold_paths() -> None:
    for override in (
        "data.path-/data/x.h5ad",
        "data.path-[a.h5ad,b.h5ad]",
        "weights-some/run",
        "+x-../y",
        "data.path-q",
    ):
        key = override.partition("-")[0]
        assert shown(override, "-").startswith(f"{key}-")
        assert len(shown(override, "-")) == len(key) + 9
        assert shown(override, "-") != shown(f"{override}2", "-")
    for override in ("model.width-0.5", "federation-fedprox", "data.client_key-donor_id", "split.test-[b]"):
        assert shown(override, "-") == override
    for override in ("model.width-0.5", "federation-fedprox", "model.hidden-[50,25]"):
        assert shown(override, "-", people=False) == override
    for override in ("data.client_key-donor_id", "split.test-[7]", "finetuning.client-7", "split.newcomers-[Smith]"):
        assert override.partition("-")[2] not in shown(override, "-", people=False)


def test_the_public_view_keeps_numbers_and_words_alone() -> None:
    whole = {
        "_target_": "torch.optim.Adam",
        "lr": 0.1,
        "hidden": [3, 2],
        "path": "/data/x.h5ad",
        "label_key": "diagnosis",
        "weights": None,
        "client": 4711,
        "newcomers": [4711],
        "refused": ["round 1, Smith: error 2"],
        "precision": "32-true",
        "nested": [{"who": "Smith", "n": 1}],
        "test": "cells",
    }
    kept = {"_target_", "lr", "hidden", "weights", "precision", "nested", "test"}
    assert public(whole) == {key: whole[key] for key in kept} | {"nested": [{"n": 1}]}
    assert public({"newcomers": 2, "test": ["7"]}) == {"newcomers": 2}
