"""Weights & Biases without an account and without a network."""

from pathlib import Path

import pytest

from scfl_green.runs.loggers import wandb_logger, wandb_mode


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))


def test_offline_without_a_key() -> None:
    assert wandb_mode() == "offline"


def test_the_environment_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert wandb_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode() == "disabled"


def test_a_netrc_entry_is_a_key(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert wandb_mode() == "online"
    (tmp_path / ".netrc").write_text("machine elsewhere.org login user password secret\n")
    assert wandb_mode() == "offline"


def test_a_server_that_does_not_answer_means_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    logger = wandb_logger(str(tmp_path), "project", "name", None, [])
    assert logger.experiment.offline
    logger.finalize("success")
    assert "logged offline" in caplog.text
    assert list(tmp_path.rglob("*.wandb"))
