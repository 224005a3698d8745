"""Loaded files cannot run code: names are limited, weights are checked by hash, and nothing reads pickles."""

import ast
import hashlib
import importlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from conftest import CHOICES, CONFIGS, NEEDS, ROOT, compose_config
from program import start_program
from scfl_green.data.sources.local import fetched
from scfl_green.errors import InputError
from scfl_green.runs.reopen import reopen
from scfl_green.runs.run import run
from scfl_green.security import targets
from scfl_green.training.trained_model import TrainedModel

HOSTILE = [
    "builtins.eval",
    "builtins.exec",
    "builtins.__import__",
    "eval",
    "os.system",
    "os.popen",
    "posix.system",
    "subprocess.run",
    "subprocess.Popen",
    "functools.partial",
    "pathlib.Path.read_text",
    "pathlib.Path",
    "importlib.import_module",
    "runpy.run_path",
    "code.interact",
    "pickle.loads",
    "numpy.load",
    "yaml.unsafe_load",
    "joblib.load",
    "ctypes.CDLL",
    "shutil.rmtree",
    "socket.create_connection",
    "webbrowser.open",
    "hydra.utils.instantiate",
    "hydra.utils.call",
    "hydra.utils.get_method",
    "hydra._internal.utils._locate",
    "torch.load",
    "torch.hub.load",
    "torch.jit.load",
    "torch.serialization.load",
    "torch.compile",
    "torch.utils.cpp_extension.load",
    "torch.utils.cpp_extension.load_inline",
    "torch.optim",
    "torch.optim.lr_scheduler",
    "torch.optim.optimizer.os.system",
    "torch.optim.optimizer.torch.load",
    "torch.optim.optimizer.functools.partial",
    "torch.optim.lr_scheduler.partial",
    "torch.optim.lr_scheduler.Counter",
    "torch.optim.lr_scheduler.types.FunctionType",
    "torch.optim.optimizer.register_optimizer_step_pre_hook",
    "torch.optim.swa_utils.update_bn",
    "torch.optim.Adam.load_state_dict",
    "torch.optim._functional.adam",
    "torch.optim.optimizer._RequiredParameter",
    "torch.optimism.Adam",
    "torch.optim.NoSuchThing",
    "pytorch_lightning.core.saving.load_from_checkpoint",
    "pytorch_lightning.LightningModule.load_from_checkpoint",
    "pytorch_lightning.Trainer.fit",
    "pytorch_lightning.cli.LightningCLI",
    "pytorch_lightning.callbacks.model_checkpoint.os.system",
    "pytorch_lightning.callbacks.model_checkpoint.shutil.rmtree",
    "pytorch_lightning.callbacks.model_checkpoint.torch.load",
    "pytorch_lightning.utilities.cloud_io.load",
    "lightning_fabric.utilities.cloud_io._load",
    "torchmetrics.classification.accuracy.Tensor",
    "flwr.serverapp.strategy.fedavg.log",
    "flwr.serverapp.strategy.fedavg.Callable",
    "flwr.simulation.run_simulation",
    "scfl_green",
    "scfl_green.models",
    "scfl_green.models.actinn",
    "scfl_green.runs.run.run",
    "scfl_green.data.reading.cells.Path.read_text",
    "scfl_green.data.sources.local.os.remove",
    "scfl_green.data.sources.local.contents",
    "scfl_green.files.write_atomically",
    "scfl_green.models.prune.Prune.__call__",
    "scfl_green.training.callbacks.torch.load",
    "scfl_green.training.callbacks.pl.Trainer",
    "scfl_green.training.callbacks.InputError",
    "scfl_green.models.base.F.cross_entropy",
    "scfl_green.models.base.scaled.__globals__",
    "scfl_green.models.actinn.CellClassifier.load_from_checkpoint",
    "scfl_green.models.actinn.ACTINN.load_from_checkpoint",
    "scfl_green.models.__builtins__.eval",
    "scfl_green.runs.loggers.wandb_mode",
    "scfl_green.trackingwandb_logger",
    " torch.optim.Adam",
    "torch.optim.Adam\n",
    "torch.optim. Adam",
    "torch.optim.\u0410dam",
    "\uff54orch.optim.Adam",
    "torch\u2024optim\u2024Adam",
    ".torch.optim.Adam",
    "torch..optim.Adam",
    "torch.optim.Adam.",
    "..models.actinn.ACTINN",
    "torch/optim/Adam",
    "torch.optim:Adam",
    "",
    " ",
    "???",
    None,
    7,
    ["torch.optim.Adam"],
    {"_target_": "torch.optim.Adam"},
]


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name)[:50])
def test_a_hostile_name_is_refused_at_any_depth_in_one_clear_line(name: Any) -> None:
    for config in (
        {"model": {"_target_": name, "_partial_": True}},
        {"model": {"optimizer": [{"x": [{"_target_": name, "_args_": ["true"]}]}]}},
        {"model": {"_target_": "torch.optim.Adam", "params": {"_target_": name}}},
    ):
        with pytest.raises(InputError, match=r"model.*_target_=") as raised:
            targets.check(config)
        assert "\n" not in str(raised.value)
        assert str(raised.value).isascii()


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_of_every_group_may_be_sent_to_another(tmp_path: Path, choice: str) -> None:
    cfg = compose_config(tmp_path, choice, *NEEDS.get(choice, []))
    targets.check(OmegaConf.to_container(cfg, resolve=True))


def test_every_name_in_every_file_and_every_exported_one_is_allowed() -> None:
    files = [file for file in CONFIGS.rglob("*.yaml") if "hydra" not in file.relative_to(CONFIGS).parts]
    named = {name for file in files for name in _values(yaml.safe_load(file.read_text()), "_target_")}
    assert len(named) > 25
    exported = {
        f"{package}.{name}" for package in targets.PACKAGES for name in importlib.import_module(package).__all__
    }
    targets.check([{"_target_": name} for name in [*named, *exported]])


def _values(config: Any, key: str) -> Iterator[str]:
    if isinstance(config, dict):
        yield from (value for name, value in config.items() if name == key)
        for name, below in config.items():
            if name != "hydra":  # sweepers and launchers, which no run is made with
                yield from _values(below, key)


def test_more_is_allowed_only_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_lab.py").write_text("from os import system\nclass Net: pass\nmade = Net()\n")
    monkeypatch.syspath_prepend(tmp_path)
    for trusted in ((), ["some"], ["some_lab.Net2"]):
        with pytest.raises(InputError, match=r"trusted=\[MODULE\]"):
            targets.check({"_target_": "some_lab.Net"}, trusted)
    for trusted in (["some_lab"], ["some_lab.Net"]):
        targets.check({"_target_": "some_lab.Net"}, trusted)
    for name in ("some_lab.system", "some_lab.made", "some_lab.Net.__init__"):
        with pytest.raises(InputError):
            targets.check({"_target_": name}, ["some_lab"])
    for trusted in ("some_lab", [""], ["*"], [None], ["some_lab."]):
        with pytest.raises(InputError, match="trusted: a list"):
            targets.check({"_target_": "some_lab.Net"}, trusted)
    assert compose_config(tmp_path, "trusted=[some_lab]", "model._target_=some_lab.Net").trusted == ["some_lab"]


INDIRECT = [
    {"evil": "os.system", "model": {"_target_": "${evil}"}},
    {"a": "os", "model": {"_target_": "${a}.system"}},
    {"model": "${oc.create:{_target_:os.system}}"},
    {"model": "${oc.decode:'{_target_: os.system}'}"},
    {"evil": "os.system", "model": "${oc.decode:'{x: [{_target_: \\${evil}}]}'}"},
    {"parts": {"evil": {"_target_": "os.system"}}, "model": {"x": ["${parts.evil}"]}},
]


@pytest.mark.parametrize("config", INDIRECT, ids=str)
def test_interpolations_hide_nothing(config: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"_target_=(os\.system|\$\{evil\}|\\)"):
        targets.check(OmegaConf.to_container(OmegaConf.create(config), resolve=True))


def test_options_that_read_a_pickle_are_refused(tmp_path: Path) -> None:
    for word in ("--experimental-rerun", "--exp=config.pickle"):
        ended = start_program(tmp_path, word, "config.pickle")
        assert ended.returncode != 0
        assert ended.stderr.startswith("error: ")
        assert len(ended.stderr.strip().splitlines()) == 1
    assert not [*tmp_path.iterdir()]


QUICK = ["regime=central", "trainer.max_epochs=1", "data.n_genes=50", "logger=none", "trainer=cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    run(cfg := compose_config(folder, *QUICK))
    OmegaConf.save(cfg, folder / "run/config.yaml")
    return folder / "run"


def test_weights_are_those_that_model_json_was_written_for(trained: Path, tmp_path: Path) -> None:
    stored = (trained / "weights.safetensors").read_bytes()
    about = json.loads((trained / "model.json").read_text())
    assert about["weights_sha256"] == hashlib.sha256(stored).hexdigest() == TrainedModel.load(str(trained)).sha256

    def left(weights: bytes, **changed: Any) -> str:
        (tmp_path / "weights.safetensors").write_bytes(weights)
        kept = {key: value for key, value in (about | changed).items() if value is not None}
        (tmp_path / "model.json").write_text(json.dumps(kept))
        return str(tmp_path)

    assert TrainedModel.load(left(stored)).sha256 == about["weights_sha256"]
    one_bit = stored[:-1] + bytes([stored[-1] ^ 1])
    for folder in (lambda: left(one_bit), lambda: left(stored, weights_sha256="0" * 64)):
        with pytest.raises(InputError, match="SHA-256 of weights"):
            TrainedModel.load(folder())
    for wrong in (None, 7, ["x"]):
        with pytest.raises(InputError, match="no weights_sha256"):
            TrainedModel.load(left(stored, weights_sha256=wrong))
    pickled = b"\x80\x04cos\nsystem\n."
    with pytest.raises(InputError, match="damaged files"):
        TrainedModel.load(left(pickled, weights_sha256=hashlib.sha256(pickled).hexdigest()))
    for name in ("os.system", "torch.load", "scfl_green.models.actinn.CellClassifier.load_from_checkpoint"):
        with pytest.raises(InputError, match=r"model\.json: model.*_target_="):
            TrainedModel.load(left(stored, model=about["model"] | {"_target_": name}))
        with pytest.raises(InputError, match=r"optimizer\._target_="):
            TrainedModel.load(left(stored, model=about["model"] | {"optimizer": {"_target_": name}}))


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name)[:50])
def test_a_hostile_name_is_refused_in_what_is_received(trained: Path, tmp_path: Path, name: Any) -> None:
    shutil.copytree(trained, received := tmp_path / "received")
    about = json.loads((trained / "model.json").read_text())
    (received / ".hydra").mkdir(exist_ok=True)
    evil = {"_target_": name}
    places = {"data": {"source": evil}, "genes": evil, "split": evil, "model": {"optimizer": evil}}
    config = yaml.safe_load((received / "config.yaml").read_text())
    for group, hostile in places.items():
        changed = config | {group: config[group] | hostile}
        (received / ".hydra/config.yaml").write_text(json.dumps(changed))
        with pytest.raises(InputError, match=rf"received: {group}\..*_target_="):
            reopen(received)
    for model in (evil, {"optimizer": evil}):
        (received / "model.json").write_text(json.dumps(about | {"model": about["model"] | model}))
        with pytest.raises(InputError, match=r"model\.json: model.*_target_="):
            TrainedModel.load(str(received))


def test_a_run_refuses_weights_that_were_swapped(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "swapped")
    weights = load_file(trained / "weights.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, tmp_path / "swapped/weights.safetensors")
    with pytest.raises(InputError, match="SHA-256 of weights"):
        run(compose_config(tmp_path, f"weights={tmp_path}/swapped", *QUICK))


@pytest.mark.parametrize("file", ["../a.h5ad", "/a.h5ad", ".h5ad", "authorized_keys", "x/a.h5ad", "a.h5ad\n"])
def test_a_download_is_written_nowhere_else(tmp_path: Path, file: str) -> None:
    with pytest.raises(InputError, match=r"data\.source\.file="):
        fetched(file, None, str(tmp_path), lambda place: place.touch())


# The notebooks are run as they stand; a hostile reply is made to see that it is refused.
EXCEPTIONS = {
    ("tests/analysis/test_notebooks.py", "exec"),
    ("tests/data/test_cases.py", "runpy"),
    ("tests/data/test_formats.py", "shell"),
    ("tests/federated/test_bad_replies.py", "allow_pickle"),
    ("tests/program.py", "runpy"),
}
MODULES = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "joblib", "dill", "cloudpickle", "runpy", "imp"}
LOADERS = {"load", "load_all", "unsafe_load", "full_load", "unsafe_load_all", "full_load_all"}


def forbidden(tree: ast.Module) -> Iterator[str]:
    """Names in a source file that could run code they read."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from {alias.name.split(".")[0] for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom):
            yield from {str(node.module).split(".")[0]} & MODULES
            yield from {f"{node.module}.{alias.name}" for alias in node.names} & {"os.system", "torch.load", "os.popen"}
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in (
            "os.system",
            "os.popen",
            "torch.hub",
            "pd.read_pickle",
        ):
            yield ast.unparse(node)
        elif isinstance(node, ast.Call):
            yield from _of_call(node)


def _of_call(node: ast.Call) -> Iterator[str]:
    called = ast.unparse(node.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    yield from {called} & {"eval", "exec", "__import__"}
    yield from (name for name in ("allow_pickle", "shell") if given.get(name, "False") != "False")
    if called.endswith(("torch.load", "load_from_checkpoint")) and given.get("weights_only") != "True":
        yield called
    if called.startswith("yaml.") and called.split(".")[-1] in LOADERS:
        yield called


def test_nothing_in_the_tree_reads_what_can_run_code() -> None:
    files = [
        ROOT / "train.py",
        *(f for folder in ("src", "benchmarks", "scripts", "tests") for f in (ROOT / folder).rglob("*.py")),
    ]
    assert len(files) > 60
    found = {(str(file.relative_to(ROOT)), name) for file in files for name in forbidden(ast.parse(file.read_text()))}
    assert found == EXCEPTIONS


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "import dill.source",
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=wanted)",
        "eval(x)",
        "os.system(x)",
        "subprocess.run(x, shell=True)",
        "yaml.load(f)",
        "from torch import load",
    ],
)
def test_the_search_finds_forbidden_code(code: str) -> None:
    assert list(forbidden(ast.parse(code)))
