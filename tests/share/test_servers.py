"""The same on servers: MLflow's model registry, and a Hugging Face Hub on 127.0.0.1, by their own clients."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from hub_server import HubServer, hub
from shelf import TERMS, overrides, private

from conftest import compose_config
from jobs import in_child
from scfl_green.cli import main
from scfl_green.errors import InputError
from scfl_green.runs.run import run
from scfl_green.share.names import parse
from scfl_green.share.registry import Registry, pull, push, registry
from scfl_green.share.release import FILES
from scfl_green.training.trained_model import WEIGHTS

pytest_plugins = ["shared_run"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", "hf_of-nobody")
        yield server


def check_registry(target: str, finished: Path, tmp_path: Path) -> Registry:
    """Push twice, list, and pull both versions."""
    first, second = (push(finished, "islets", target, TERMS).version for _ in range(2))
    push(finished, "other", target, TERMS)
    found = registry(target)
    entries = {(entry.name, entry.version): entry for entry in found.entries()}
    assert {("islets", second)} < set(entries)
    assert {name for name, _ in entries} == {"islets", "other"}
    entry = entries["islets", second]
    assert entry.matches({"tissue": ["Pancreas"], "species": ["homo sapiens"], "cell_types": ["macrophage"]})
    assert not entry.matches({"tissue": ["lung"]})
    assert entry.row()[4:8] == ("9", "pancreas", "Homo sapiens", "mit")
    for version in (first, second, None):
        folder = pull(parse(f"{target}/islets" + (f"@{version}" if version else "")), tmp_path / str(version))
        assert {path.name for path in folder.iterdir()} == set(FILES)
        assert (folder / WEIGHTS).read_bytes() == (finished / WEIGHTS).read_bytes()
    for name, message in {"islet": "did you mean islets?", "islets@nope": "no such version in"}.items():
        with pytest.raises(InputError) as raised:
            pull(parse(f"{target}/{name}"), tmp_path / "new")
        assert message in str(raised.value)
        assert "\n" not in str(raised.value)
    return found


def test_the_hub_gives_back_what_it_was_given_and_hears_no_more(
    server: HubServer, finished: Path, tmp_path: Path
) -> None:
    check_registry("hf:my-lab", finished, tmp_path)
    sent = [content for method, _, content in server.heard if method in ("POST", "PUT")]
    assert any(b"pancreatic A cell" in content for content in sent)
    stored = [
        content for commits in server.commits.values() for files in commits.values() for content in files.values()
    ]
    assert not [(word, content[:80]) for word in private(finished) for content in [*sent, *stored] if word in content]


def test_what_the_hub_should_not_have_is_refused(server: HubServer, finished: Path, tmp_path: Path) -> None:
    push(finished, "islets", "hf:my-lab", TERMS)
    (files,) = server.commits["my-lab/islets"].values()
    good = dict(files)
    for changed, message in {
        (WEIGHTS, b"x"): "SHA-256 of weights.safetensors",
        ("README.md", b"x" * (1 << 20) + b"x"): "README.md has 1048577 bytes, at most",
        ("SHA256SUMS", None): "no SHA256SUMS there",
    }.items():
        files.update(good)
        name, content = changed
        files.pop(name)
        files.update({} if content is None else {name: content})
        with pytest.raises(InputError) as raised:
            pull(parse("hf:my-lab/islets"), tmp_path / "new")
        assert message in str(raised.value)
        assert not list(tmp_path.iterdir())
    files.update(good | {"setup.py": b"import os", "../../../evil": b"x"})
    assert {path.name for path in pull(parse("hf:my-lab/islets"), tmp_path / "new").iterdir()} == set(FILES)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.slow
def test_a_push_to_the_hub_that_is_killed_leaves_the_last_version(
    server: HubServer, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = push(finished, "islets", "hf:my-lab", TERMS).version
    # The client dies once it has sent the weights, before the commit that names them.
    answer = server.RequestHandlerClass.do_PUT
    child: list[int] = []

    def do_PUT(handler: object) -> None:  # noqa: N802
        answer(handler)
        os.kill(child[0], signal.SIGKILL)

    monkeypatch.setattr(server.RequestHandlerClass, "do_PUT", do_PUT)
    code = f"from scfl_green.cli import main; main(['share', 'push', {str(finished)!r}, 'islets', '--to', 'hf:my-lab'])"
    process = subprocess.Popen([sys.executable, "-c", code])
    child.append(process.pid)
    assert process.wait() == -signal.SIGKILL
    assert [entry.version for entry in registry("hf:my-lab").entries()] == [version]
    pull(parse("hf:my-lab/islets"), tmp_path / "whole")


def test_mlflow_gives_back_what_it_was_given(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pulled").mkdir()
    check_registry(f"mlflow:sqlite:///{tmp_path}/mlflow.db", finished, tmp_path / "pulled")
    files = [path for path in tmp_path.rglob("*") if path.is_file() and "pulled" not in path.parts]
    assert len(files) == 1 + 3 * len(FILES)
    words = [word for word in private(finished) if word not in str(tmp_path).encode()]  # where the database itself lies
    assert not [(path.name, word) for path in files for word in words if word in path.read_bytes()]


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """As ``make registry`` starts it."""
    folder = tmp_path_factory.mktemp("mlflow")
    (folder / "registry").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", "sqlite:///registry/mlflow.db", "--artifacts-destination", "registry"]
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"})
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            urlopen(f"{url}/health").close()
            break
        except OSError:
            time.sleep(0.5)
    yield url, folder
    process.terminate()
    process.wait()


@pytest.mark.slow
def test_mlflows_server_is_a_registry_that_tells_nobodys_name(
    mlflow_server: tuple[str, Path], finished: Path, planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = mlflow_server
    check_registry(f"mlflow:{url}", finished, tmp_path)
    words = [*private(finished), str(folder).encode(), str(tmp_path).encode(), sys.executable.encode()]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 1 + 3 * len(FILES)
    assert not [(path.name, word) for path in files for word in words if word in path.read_bytes()]
    # A push that is killed before its version is made leaves none.
    from mlflow import MlflowClient

    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_model_version", die)
        assert in_child(lambda: push(finished, "islets", f"mlflow:{url}", TERMS)) == -signal.SIGKILL
    assert [entry.version for entry in registry(f"mlflow:{url}").entries() if entry.name == "islets"] == ["1", "2"]
    # A name in the default registry starts a run.
    monkeypatch.setenv("SCFL_MODELS", f"mlflow:{url}")
    record = run(
        compose_config(tmp_path, *overrides(planted), "regime=central", "trainer.max_epochs=1", "weights=islets")
    )
    assert record["accuracy"] > 0


@pytest.mark.slow
def test_a_server_that_is_not_there_is_told_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for target in ("mlflow:http://127.0.0.1:9", "hf:my-lab"):
        for words in (["list", "--from", target], ["pull", f"{target}/islets", "-o", str(tmp_path / "new")]):
            with pytest.raises(SystemExit, match=f"error: {target}: ") as raised:
                main(["share", *words])
            assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())
