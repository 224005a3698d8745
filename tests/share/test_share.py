"""Share: what is pushed is what is pulled, it tells nobody's name, and a registry stays whole."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partialmethod
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from safetensors.torch import load_file, save_file
from shelf import TERMS, overrides, private

from conftest import compose_config
from jobs import in_child
from scfl_green.cli import main
from scfl_green.errors import InputError
from scfl_green.runs.reopen import reopen
from scfl_green.runs.run import run
from scfl_green.share import release
from scfl_green.share.card import Terms, species
from scfl_green.share.find import find, shared
from scfl_green.share.names import parse
from scfl_green.share.registry import pull, push, registry
from scfl_green.share.release import FILES
from scfl_green.training.trained_model import TrainedModel

pytest_plugins = ["shared_run"]
CODE = "os.system"


def probabilities(folder: Path) -> torch.Tensor:
    """Of the model in a folder, on fixed cells."""
    model = TrainedModel.load(str(folder))
    size = {"n_genes": len(model.preparation.genes), "n_types": len(model.types)}
    network = instantiate(model.config, **size, _convert_="all")
    network.load_state_dict(model.weights)
    cells = torch.randn(64, size["n_genes"], generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return network.eval()(cells).softmax(dim=1)


def test_a_pulled_model_is_the_pushed_one_to_the_bit(finished: Path, shelf: Path, tmp_path: Path) -> None:
    folder = pull(parse("islets", str(shelf)), tmp_path / "elsewhere")
    assert {path.name for path in folder.iterdir()} == set(FILES)
    before, after = (TrainedModel.load(str(place)) for place in (finished, folder))
    assert probabilities(folder).equal(probabilities(finished))
    assert (after.sha256, after.types, after.config) == (before.sha256, before.types, before.config)
    assert after.preparation.key() == before.preparation.key()
    assert after.emissions_kg == before.emissions_kg > 0
    with pytest.raises(
        InputError, match="a shared model, which does not tell its cells; only the folder of its run can"
    ):
        reopen(folder)


def test_nothing_that_is_pushed_tells_of_cells_people_or_paths(finished: Path, shelf: Path) -> None:
    about = json.loads((finished / "model.json").read_text())
    assert "cnryCLIENT" in str(about["trained_on"]["clients"])  # they are there to be found
    files = [path for path in shelf.rglob("*") if path.is_file()]
    assert len(files) == len(FILES) + 2
    told = [
        *private(finished),
        about["trained_on"]["cells"][:30].encode(),
        *map(str.encode, about["trained_on"]["files"]),
    ]
    assert not [(path.name, word) for path in files for word in told if word in path.read_bytes()]
    pushed = json.loads((shelf / "islets/1/model.json").read_text())
    assert set(pushed["trained_on"]) == {"salted_sha256"}
    seen = TrainedModel.load(str(shelf / "islets/1")).seen
    assert (seen.clients, seen.files, len(seen.cells), seen.told) == (frozenset(), [], 0, False)


def test_the_card_is_what_the_hub_expects(finished: Path, shelf: Path) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard((shelf / "islets/1/README.md").read_text())
    record = json.loads((finished / "result.json").read_text())
    grams = 1e3 * (record["emissions_kg"] + record["transfer_emissions_kg"])
    emissions = card.data.to_dict()["co2_eq_emissions"]
    assert emissions["emissions"] == pytest.approx(grams)
    assert set(emissions) == {"emissions", "source", "training_type", "geographical_location", "hardware_used"}
    assert card.data.eval_results[0].metric_value == record["accuracy"]
    assert (card.data.license, card.data.tissue, card.data.species) == ("mit", "pancreas", "Homo sapiens")
    for words in (
        "| 1 | ",
        "| sites | 4 |",
        "| strategy | FedAvg |",
        "0.002 kWh/GB",
        "| AUC of membership inference | not",
    ):
        assert words in card.text
    public = json.loads((shelf / "islets/1/result.json").read_text())
    assert [row["site"] for row in public["sites"]] == [1, 2, 3, 4]
    weighted = sum(row["f1"] * row["cells_test"] for row in public["by_type"] if row["f1"] is not None)
    assert weighted / record["cells_test"] == pytest.approx(record["weighted_f1"])


def test_leakage_is_on_the_card_once_it_is_measured(finished: Path, tmp_path: Path, capsys: Any) -> None:
    measured = shutil.copytree(finished, tmp_path / "run")
    rows = "client,members,non_members,auc,auc_low,auc_high\ncnryCLIENT,9,9,0.7,0.6,0.8\nall,9,9,0.55,0.5,0.6\n"
    (measured / "privacy.csv").write_text(rows)
    main(["share", "card", str(measured), "--licence", "MIT"])
    printed = capsys.readouterr().out
    assert "| AUC of membership inference | 0.550 (0.500–0.600;" in printed
    assert "cnry" not in printed


def test_sums_over_few_cells_stay_unless_allowed(
    registry_of_mine: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def pushed(version: int) -> Any:
        return json.loads((registry_of_mine / f"islets/{version}/model.json").read_text())["calibration"]

    calibration = json.loads((finished / "model.json").read_text())["calibration"]
    assert pushed(1) == calibration is not None
    fewest = min(calibration["profiles"]["n"])
    assert fewest >= release.FEWEST_CELLS
    monkeypatch.setattr(release, "FEWEST_CELLS", fewest + 1)
    push(finished, "islets", "models", TERMS)
    assert pushed(2) is None
    main(["share", "push", str(finished), "islets", "--licence", "MIT"])
    assert f"calibration (sums over the training cells of a type of which there are only {fewest};" in " ".join(
        capsys.readouterr().out.split()
    )
    push(finished, "islets", "models", replace(TERMS, allowed=["calibration"]))
    assert pushed(4) == calibration


def test_versions_count_up_and_are_searched(registry_of_mine: Path, finished: Path, capsys: Any) -> None:
    main(["share", "push", str(finished), "islets", "--licence", "MIT", "--tissue", "islet of Langerhans"])
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == "pushed islets@2 to models"
    assert "model.json: trained_on" in printed  # what stays is said
    push(finished, "other", "models", Terms("MIT", "lung"))
    for words, names in {
        (): ["islets@1", "islets@2", "other@1"],
        ("--tissue", "PANCREAS"): ["islets@1"],
        ("--species", "homo sapiens", "--tissue", "lung"): ["other@1"],
        ("--types", "Macrophage", "pancreatic A cell"): ["islets@1", "islets@2", "other@1"],
        ("--types", "macrophage", "neuron"): [],
    }.items():
        main(["share", "list", *words])
        *rows, last = capsys.readouterr().out.splitlines()
        assert [row.split()[0] for row in rows[2:]] == names  # below the head and its line
        assert last.startswith(f"{len(names)} model")
    main(["share", "pull", "islets@1", "-o", "one"])
    assert (registry_of_mine.parent / "one/README.md").exists()


def test_only_the_owner_can_tell_whether_a_file_was_seen(
    registry_of_mine: Path, finished: Path, planted: Path, capsys: Any
) -> None:
    answers = {planted: "has been trained on", finished / "result.json": "has not seen"}
    for file, answer in answers.items():
        main(["share", "seen", "islets", str(file), "--run", str(finished)])
        assert capsys.readouterr().out == f"islets {answer} {file}\n"
    with pytest.raises(SystemExit, match=r"error: .*no share\.json there"):
        main(["share", "seen", "islets", str(planted), "--run", str(registry_of_mine / "islets/1")])
    hashed = hashlib.sha256(planted.read_bytes()).hexdigest()
    assert hashed not in (registry_of_mine / "islets/1/model.json").read_text()


def test_a_name_starts_training_as_its_folder_does(
    registry_of_mine: Path, finished: Path, planted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    common = [*overrides(planted), "regime=central", "trainer.max_epochs=1"]
    caplog.set_level("INFO")
    of_name = run(compose_config(tmp_path / "logs", *common, "weights=islets@1"))
    assert "a shared model does not tell what it was trained on" in caplog.text
    of_address = run(compose_config(tmp_path / "logs", *common, f"weights={registry_of_mine}/islets"))
    assert "finished before, with this configuration" in caplog.text
    of_run = run(compose_config(tmp_path / "of_run", *common, f"weights={finished}"))
    assert of_name["fingerprint"] == of_address["fingerprint"] == of_run["fingerprint"]
    saved = [(tmp_path / place / "run/weights.safetensors").read_bytes() for place in ("logs", "of_run")]
    assert saved[0] == saved[1]
    assert of_name["accuracy"] == of_run["accuracy"]


def test_a_name_nobody_pushed_is_told_with_the_nearest(registry_of_mine: Path) -> None:
    with pytest.raises(InputError, match=r"islet: no such model in models; did you mean islets\?"):
        find("islet")
    with pytest.raises(InputError, match=r"islets@9: no such version in models; there are 1$"):
        find("islets@9")
    assert find(str(registry_of_mine / "islets/1")) == registry_of_mine / "islets/1"
    assert shared("no/such/run") is None
    (registry_of_mine.parent / "islets").mkdir()
    assert shared("islets") is None  # a folder goes before a name


Damage = Callable[[Path], object]


def edit(file: str, **changed: Any) -> Damage:
    """Change a JSON file of the model, and its SHA-256 with it, as who made it himself would."""

    def damage(model: Path) -> None:
        stored = json.loads((model / file).read_text())
        (model / file).write_text(json.dumps(stored | changed))
        seal(model)

    return damage


def seal(model: Path) -> None:
    names = [name for name in FILES if name != "SHA256SUMS"]
    sums = [f"{hashlib.sha256((model / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (model / "SHA256SUMS").write_text("".join(sums))


def without_outputs(model: Path) -> None:
    """Weights of a network with one cell type less."""
    weights = load_file(model / "weights.safetensors")
    last = list(weights)[-1].rpartition(".")[0]
    save_file({name: w[:-1].clone() if name.startswith(last) else w for name, w in weights.items()}, model / "w")
    (model / "w").replace(model / "weights.safetensors")
    edit("model.json", weights_sha256=hashlib.sha256((model / "weights.safetensors").read_bytes()).hexdigest())(model)


def grown(model: Path) -> None:
    with (model / "README.md").open("r+b") as file:
        file.truncate(1 << 30)  # sparse


def link(model: Path) -> None:
    (model / "README.md").unlink()
    (model / "README.md").symlink_to("/etc/passwd")


def moved_index(name: str) -> Damage:
    def damage(model: Path) -> None:
        path = model.parents[1] / "models.json"
        path.write_text(path.read_text().replace('"islets"', json.dumps(name)))

    return damage


DAMAGES: dict[str, tuple[str, Damage, str]] = {
    "weights changed": ("islets", lambda m: (m / "weights.safetensors").write_bytes(b"x"), "SHA-256 of weights"),
    "card changed": ("islets", lambda m: (m / "README.md").write_text("mine"), "SHA-256 of README.md"),
    "weights missing": ("islets", lambda m: (m / "weights.safetensors").unlink(), r"no weights\.safetensors there"),
    "sums missing": ("islets", lambda m: (m / "SHA256SUMS").unlink(), "no SHA256SUMS there"),
    "folder missing": ("islets", lambda m: shutil.rmtree(m), "No such file"),
    "newer format": ("islets", edit("model.json", format=2), "has format 2, .*; update scfl-green"),
    "odd format": ("islets", edit("model.json", format="../x"), "has format '../x'"),
    "code": ("islets", edit("model.json", model={"_target_": CODE}), f"_target_={CODE}: not among the names"),
    "nested code": (
        "islets",
        edit("model.json", model={"_target_": "scfl_green.models.ACTINN", "optimizer": {"_target_": CODE}}),
        f"optimizer._target_={CODE}: not among the names",
    ),
    "another network": (
        "islets",
        edit("model.json", model={"_target_": "scfl_green.models.ScDLC", "optimizer": None}),
        r"weights\.safetensors does not fit its network",
    ),
    "fewer outputs": ("islets", without_outputs, r"gives 8 outputs, model\.json names 9"),
    "fewer types": (
        "islets",
        edit("model.json", cell_types=["a", "b"], cell_type_ids=None, calibration=None),
        r"gives 9 outputs, model\.json names 2",
    ),
    "type twice": ("islets", edit("model.json", cell_types=["a"] * 9), "genes or cell types that do not fit"),
    "other genes": (
        "islets",
        edit("model.json", genes={"genes": ["a"], "symbols": ["a"], "mean": [0], "scale": [1]}),
        "does not fit its network, 1 genes",
    ),
    "no genes": ("islets", edit("model.json", genes=[]), "damaged files"),
    "not safetensors": (
        "islets",
        lambda m: (
            (m / "weights.safetensors").write_bytes(b"pickle"),
            edit("model.json", weights_sha256=hashlib.sha256(b"pickle").hexdigest())(m),
        ),
        "damaged files",
    ),
    "oversized": ("islets", grown, "README.md has 1073741824 bytes, at most 1048576"),
    "a link": ("islets", link, "no README.md there"),
    "name with a path": ("../islets", lambda m: None, "its target is"),
    "hidden name": (".islets", lambda m: None, "no name of a model"),
    "odd version": ("islets@../1", lambda m: None, "its target is"),
    "hostile version": ("islets@..", lambda m: None, "a version is expected"),
    "terminal codes": ("islets\x1b[2J", lambda m: None, "no name of a model"),
    "index leads elsewhere": ("islets", moved_index("../islets"), r"models\.json: damaged"),
    "index damaged": ("islets", lambda m: (m.parents[1] / "models.json").write_text("{"), r"models\.json: damaged"),
    "newer index": (
        "islets",
        lambda m: (m.parents[1] / "models.json").write_text('{"format": 2, "models": {}}'),
        "format 2, this version reads 1",
    ),
    "no registry": ("islets", lambda m: shutil.rmtree(m.parents[1]), "no such model"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_what_should_not_be_pulled_is_refused_in_a_line_and_leaves_nothing(registry_of_mine: Path, case: str) -> None:
    name, damage, message = DAMAGES[case]
    damage(registry_of_mine / "islets/1")
    with pytest.raises(InputError, match=message) as raised:
        pull(parse(name, str(registry_of_mine)), registry_of_mine.parent / "new")
    told = str(raised.value)
    assert "\n" not in told
    assert told.isprintable()
    assert {path.name for path in registry_of_mine.parent.iterdir()} <= {"models"}


def test_a_folder_that_is_there_is_not_overwritten(registry_of_mine: Path, tmp_path: Path) -> None:
    (tmp_path / "islets").mkdir()
    with pytest.raises(SystemExit, match="error: islets: it exists already; name another folder with -o"):
        main(["share", "pull", "islets", "--from", "models"])
    assert not list((tmp_path / "islets").iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{run}", "a/b"], "no name of a model"),
        (["{run}", "x", "--licence", "my own; rm"], "an SPDX identifier is expected"),
        (["{run}", "x", "--tissue", "a\nb"], "a line of text is expected"),
        (["{run}/nowhere", "x"], r"no result\.json there"),
        (["{run}", "x", "--to", "hf:a/b"], "an account or organisation is expected"),
        (["{run}", "x", "--to", "mlflow:"], "name its server"),
        (["{text}", "x"], r"model\.act: a text .* --allow model\.act"),
        (["{short}", "x"], r"result\.json: damaged, or of an earlier version"),
    ],
)
def test_what_should_not_be_pushed_is_refused_in_a_line(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    places = {"run": str(finished)}
    for name, file, changed in (("text", "model.json", {"model": {"act": "cnry"}}), ("short", "result.json", {})):
        folder = shutil.copytree(finished, tmp_path.parent / f"{tmp_path.name}-{name}")
        stored = json.loads((folder / file).read_text()) if changed else {}
        changed = {"model": stored["model"] | changed["model"]} if changed else {}
        (folder / file).write_text(json.dumps(stored | changed))
        places[name] = str(folder)
    with pytest.raises(SystemExit, match=message) as raised:
        main(["share", "push", *(word.format(**places) for word in words)])
    assert "\n" not in str(raised.value)
    assert "cnry" not in str(raised.value)
    assert not list(tmp_path.iterdir())


# Of the files of a push: the first copy, the folder of the version, the index; or every one.
@pytest.mark.parametrize("places", [(5, 10, 11), pytest.param(range(12), marks=pytest.mark.slow)])
def test_a_push_that_is_killed_anywhere_leaves_the_registry_whole(
    registry_of_mine: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, places: Sequence[int]
) -> None:
    rename, renamed = Path.replace, iter(range(1000))

    def killed(self: Path, to: Path, *, at: int, after: bool) -> None:
        fatal = next(renamed) == at
        if not fatal or after:
            rename(self, to)
        if fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    for at, after in product(places, (False, True)):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", partialmethod(killed, at=at, after=after))
            assert in_child(lambda: push(finished, "islets", "models", TERMS)) == -signal.SIGKILL
        versions = [entry.version for entry in registry("models").entries()]
        assert versions == [str(number + 1) for number in range(len(versions))]
        shutil.rmtree(pull(parse("islets", "models"), Path("checked")))
    assert len(versions) == 2  # killed after the index was written, it was pushed
    push(finished, "islets", "models", TERMS)
    assert {path.name for path in (registry_of_mine / "islets").iterdir()} == {"1", "2", "3"}


@pytest.mark.slow
def test_two_pushes_at_once_are_two_versions(registry_of_mine: Path, finished: Path, tmp_path: Path) -> None:
    words = ["share", "push", str(finished), "islets", "--licence", "MIT"]
    command = [sys.executable, "-m", "scfl_green", *words]
    started = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    pushed = [process.communicate()[0] for process in started]
    assert sorted(re.findall(r"islets@(\d)", "".join(pushed))) == ["2", "3", "4"]
    assert [entry.version for entry in registry("models").entries()] == ["1", "2", "3", "4"]


def test_only_ensembl_tells_the_species() -> None:
    assert species(["ENSG00000108849", "ENSG00000142173"]) == "Homo sapiens"
    assert species(["ENSMUSG00000000001"]) == "Mus musculus"
    assert species(["ENSG00000108849", "ENSMUSG00000000001"]) is None
    assert species(["INS", "GCG"]) is None
    assert species([]) is None
