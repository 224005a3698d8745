"""A newcomer hospital: a file of its own, a model of others, and nothing else of theirs."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from omegaconf import DictConfig, OmegaConf

from conftest import compose_config
from program import start_program
from scfl_green.analysis.report import report
from scfl_green.data.features.prepare import Preparation
from scfl_green.data.reading.cells import Cells
from scfl_green.data.reading.known import with_genes
from scfl_green.data.sources import local as sources
from scfl_green.errors import InputError
from scfl_green.models.scores import prediction_scores
from scfl_green.runs.assemble import load_dataset, make_job
from scfl_green.runs.early import check_early
from scfl_green.runs.fine_tuning import finetune
from scfl_green.runs.network import network_of
from scfl_green.runs.newcomer import FineTuning
from scfl_green.runs.run import metered, run
from scfl_green.training.trained_model import TrainedModel

CONFIGS = Path(__file__).parents[2] / "configs/model"
QUICK = ["data=h5ad", "logger=none", "trainer=cpu", "data.n_genes=100"]
NEW = ("pancreatic D cell", "pancreatic PP cell")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of every second cell of the four studies, ``site1.h5ad`` to ``site4.h5ad``, and in ``model`` what the first
    three have trained, without two types of cells; ``known.h5ad`` is the fourth without these types."""
    place = tmp_path_factory.mktemp("sites")
    whole = ad.read_h5ad(sources.packaged("pancreas")[0])[::2, ::4].copy()
    for number, study in enumerate(sorted(whole.obs["Dataset"].unique()), start=1):
        cells = whole[whole.obs["Dataset"] == study]
        cells = cells[cells.obs["cell_type"].map(cells.obs["cell_type"].value_counts()).astype(int) > 1].copy()
        if number < 4:
            cells = cells[~cells.obs["cell_type"].isin(NEW)].copy()
        cells.write_h5ad(place / f"site{number}.h5ad")
    paths = f"data.path=[{','.join(f'{place}/site{n}.h5ad' for n in (1, 2, 3))}]"
    some = ["model=scdlc", "model.width=0.5", "federation.rounds=3", "federation.local_epochs=2"]
    some += ["federation.min_cells=0"]
    run(compose_config(place / "a", paths, *QUICK, *some))
    (place / "a/run").rename(place / "model")
    change(place, "known", lambda cells: cells[~cells.obs["cell_type"].isin(NEW)])
    return place


def change(place: Path, name: str, changed: Callable[[ad.AnnData], ad.AnnData]) -> Path:
    """The newcomer's file, changed, beside it."""
    cells = changed(ad.read_h5ad(place / "site4.h5ad")).copy()
    cells.write_h5ad(path := place / f"{name}.h5ad")
    return path


def at_newcomer(place: Path, folder: Path, *overrides: str, file: str = "known", width: float = 0.5) -> dict[str, Any]:
    return run(compose_config(folder, *_newcomer(place, *overrides, file=file, width=width)))


def _newcomer(place: Path, *overrides: str, file: str = "known", width: float = 0.5) -> list[str]:
    ours = ["regime=finetune", f"weights={place}/model", f"data.path={place}/{file}.h5ad", "trainer.max_epochs=2"]
    return [*QUICK, *ours, "model=scdlc", f"model.width={width}", *overrides]


def in_one_line(printed: str) -> str:
    return " ".join(printed.split())


def test_a_file_and_a_model_are_enough(place: Path) -> None:
    given = ["regime=finetune", "weights=model", "data=h5ad", "data.path=site4.h5ad", "finetuning.new_types=true"]
    ended = start_program(place, *given, "trainer.max_epochs=3", "logger=none", "trainer=cpu")
    assert (ended.returncode, ended.stderr) == (0, "")
    (folder,) = place.glob("logs/runs/h5ad-scdlc-baseline-finetune-s42-*")
    record = json.loads((folder / "result.json").read_text())
    assert (record["model"], record["clients"], record["epochs"], record["scratch_epochs"]) == ("scdlc", 1, 3, 3)
    answer = in_one_line(ended.stdout)
    answer = answer[answer.index("site4, ") :].partition(f"{folder}:")[0].strip()
    for score in ("untouched_weighted_f1", "weighted_f1", "scratch_weighted_f1", "target_validation_f1"):
        assert f"{record[score]:.3f}" in answer
    assert f"kept are the weights of epoch {record['kept_epoch']}" in answer
    assert in_one_line((folder / "summary.txt").read_text()).endswith(answer)
    before, after = TrainedModel.load(str(place / "model")), TrainedModel.load(str(folder))
    assert after.config["width"] == 0.5
    assert after.types == (*before.types, *NEW)
    assert f"cell types that are new to the model, which learns them: {', '.join(NEW)}" in ended.stdout
    assert after.seen.clients == {"site1", "site2", "site3", "site4"}
    assert list(after.preparation.genes) == list(before.preparation.genes)
    rows = pd.read_csv(folder / "finetune.csv")
    assert rows["epoch"].tolist() == [0, 1, 2, 3, 1, 2, 3]
    assert rows["validation_weighted_f1"][0] == pytest.approx(record["untouched_validation_f1"])
    assert not [column for column in rows if column.startswith("test_")]


def test_epoch_0_is_the_model_as_it_came(place: Path, tmp_path: Path) -> None:
    record = at_newcomer(place, tmp_path, "finetuning.curve=true")
    start = TrainedModel.load(str(place / "model"))
    cfg = compose_config(tmp_path / "again", *_newcomer(place))
    dataset = load_dataset(cfg, [place / "known.h5ad"], start, None)
    (part,) = dataset.split.clients.values()
    with metered(cfg) as meter:
        own = make_job(cfg, dataset, start, meter).test([part], start.weights).scores
    first = pd.read_csv(tmp_path / "run/finetune.csv").iloc[0]
    for name, value in own.items():
        assert record[f"untouched_{name}"] == pytest.approx(value)
        assert first[f"test_{name}"] == pytest.approx(value)
    assert (first["epoch"], first["client"], part.name) == (0, "known", "known")
    assert sum(len(getattr(part, role)) for role in ("train", "validation", "test")) == len(dataset.features.labels)


def test_types_that_are_new_take_no_cells_from_the_untouched_model(place: Path, tmp_path: Path) -> None:
    cfg = compose_config(tmp_path, *_newcomer(place, "finetuning.new_types=true", file="site4"))
    start = TrainedModel.load(str(place / "model"))
    dataset = load_dataset(cfg, [place / "site4.h5ad"], start, None)
    (part,) = dataset.split.clients.values()
    with metered(cfg) as meter:
        job = make_job(cfg, dataset, start, meter)
        for name, value in job.initial.items():  # as the seed might have drawn it
            if value.shape[0] > start.weights[name].shape[0]:
                value[len(start.types) :] = 100.0
        logits, _ = job.untouched(part.test)
        assert logits.argmax(dim=1).max() < len(start.types)
        assert job.logits(part.test, job.initial)[0].argmax(dim=1).min() >= 0
        record = finetune(job, epochs=1, finetuning=FineTuning(patience=1)).record
    assert record["untouched_accuracy"] == pytest.approx(prediction_scores(*job.untouched(part.test))["accuracy"])
    assert record["kept_epoch"] == 1


def test_a_curve_changes_nothing_but_the_curve(place: Path, tmp_path: Path) -> None:
    records = [at_newcomer(place, tmp_path / curve, f"finetuning.curve={curve}") for curve in ("true", "false")]
    bits = [hashlib.sha256((tmp_path / c / "run/weights.safetensors").read_bytes()).digest() for c in ("true", "false")]
    assert bits[0] == bits[1]
    assert records[0]["tuned_epoch_to_target"] == records[1]["tuned_epoch_to_target"]
    assert records[0]["weighted_f1"] == records[1]["weighted_f1"]


@pytest.mark.parametrize(
    "chosen",
    [
        "finetuning.patience=1",
        pytest.param("end=best", marks=pytest.mark.slow),
        pytest.param("callbacks=carbon_budget", marks=pytest.mark.slow),
    ],
)
def test_the_untouched_model_is_kept_where_no_epoch_is_better(place: Path, tmp_path: Path, chosen: str) -> None:
    ours = [chosen, "model.optimizer.lr=0.5"]  # ruins any model
    ours += ["budget.min_f1_per_gram=null", "budget.grams=1"] if "budget" in chosen else []
    record = at_newcomer(place, tmp_path, *ours)
    assert record["kept_epoch"] == 0
    assert record["weighted_f1"] == record["untouched_weighted_f1"]
    assert record["kept_validation_f1"] == record["untouched_validation_f1"]
    before, after = (TrainedModel.load(str(folder)).sha256 for folder in (place / "model", tmp_path / "run"))
    assert before == after
    assert "kept is the untouched model" in in_one_line((tmp_path / "run/summary.txt").read_text())
    if "patience" in chosen:
        assert record["epochs"] == 1


@pytest.mark.slow
def test_a_page_shows_validation_cells_where_there_is_no_curve(place: Path, tmp_path: Path) -> None:
    at_newcomer(place, tmp_path)
    assert "validation F1 by epoch at a newcomer" in report(tmp_path / "run").read_text()


@pytest.mark.slow
def test_a_last_epoch_that_is_no_better_is_told(place: Path, tmp_path: Path) -> None:
    record = at_newcomer(place, tmp_path, "model.optimizer.lr=0.5", "split.validation=0.2")
    assert record["kept_epoch"] == 2
    assert record["tuned_epoch_to_target"] == 0
    told = in_one_line((tmp_path / "run/summary.txt").read_text())
    assert "kept are the weights of epoch 2, although the untouched model scores at least as well" in told
    assert "took no fine-tuning at all" in told


@pytest.mark.slow
def test_without_validation_cells_nothing_is_compared_by_test_cells(place: Path, tmp_path: Path) -> None:
    record = at_newcomer(place, tmp_path, "split.validation=0")
    fields = ["target_validation_f1", "tuned_epoch_to_target", "scratch_emissions_kg_to_target", "kept_validation_f1"]
    assert [record[field] for field in fields] == [None] * 4
    assert record["kept_epoch"] == 2
    assert "nothing tells what the same F1 costs" in in_one_line((tmp_path / "run/summary.txt").read_text())


def test_genes_may_be_missing_or_have_other_names(place: Path, tmp_path: Path) -> None:
    before = TrainedModel.load(str(place / "model"))
    lost = list(before.preparation.genes[:10])

    def by_symbol(cells: ad.AnnData) -> ad.AnnData:
        cells = cells[~cells.obs["cell_type"].isin(NEW), ~cells.var_names.isin(lost)].copy()
        cells.var = cells.var.set_index("feature_name", drop=True).rename_axis(None)
        return cells

    change(place, "symbols", by_symbol)
    cfg = compose_config(tmp_path, *_newcomer(place, file="symbols"))
    dataset = load_dataset(cfg, [place / "symbols.h5ad"], before, None)
    assert any(note.startswith("genes: 90 of the model's 100 are in the file; the others") for note in dataset.notes)
    assert dataset.preparation.key() == before.preparation.key()
    whole = load_dataset(compose_config(tmp_path, *_newcomer(place)), [place / "known.h5ad"], before, None)
    features, all_features = (one.features.values.toarray() for one in (dataset, whole))
    assert not features[:, :10].any()
    # Depth lacks the counts of the ten genes.
    assert np.abs(features[:, 10:] - all_features[:, 10:]).max() < 0.5
    assert at_newcomer(place, tmp_path, file="symbols")["genes"] == 100


def test_other_names_alone_change_no_feature(pancreas: Cells) -> None:
    cells = replace(pancreas, counts=pancreas.counts[:50], labels=pancreas.labels[:50])
    chosen = np.arange(0, 6500, 65)[::-1]
    kept = Preparation(pancreas.genes[chosen], pancreas.symbols[chosen], np.full(100, 0.5), np.ones(100))
    order = np.random.default_rng(0).permutation(6500)
    own = cells.symbols[order]
    other = replace(cells, counts=cells.counts[:][:, order], genes=own, symbols=own)
    renamed = with_genes(other, kept.genes, kept.symbols, 1.0)
    same, features = (next(kept.apply(one)).toarray() for one in (cells, renamed))
    assert np.array_equal(features, same)
    assert with_genes(cells, kept.genes, kept.symbols, 1.0) is cells
    twice = np.where(kept.symbols == kept.symbols[1], kept.symbols[0], kept.symbols)  # a symbol of two genes
    doubled = replace(other, symbols=own)
    assert with_genes(doubled, kept.genes, twice, 0.9).notes[-1].startswith("genes: 99 of the model's 100")


def capitals(cells: ad.AnnData) -> ad.AnnData:
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(str).str.replace("A cell", "a cell")
    return cells


def renamed(cells: ad.AnnData) -> ad.AnnData:
    cells.var_names = [f"gene-{number}" for number in range(cells.n_vars)]
    del cells.var
    cells.var_names = [f"gene-{number}" for number in range(cells.n_vars)]
    return cells


BAD: dict[str, tuple[list[str], str, str]] = {
    "its own file": ([], "site2", "weights: trained on cells of site2.h5ad; name a file of other cells"),
    "an unknown type": ([], "site4", f"not trained on cell type {', '.join(NEW)}; .* finetuning.new_types=true"),
    "another spelling": (
        ["finetuning.new_types=true"],
        "capitals",
        "'pancreatic A cell' and 'pancreatic a cell' differ only in",
    ),
    "other genes": (
        [],
        "renamed",
        r"0 of the model's 100 genes are in the file \(the model has \w+, \w+, \w+; the file has gene-0, gene-1, g",
    ),
    "too few genes": (["data.min_gene_overlap=0.95"], "symbols", "90 of the model's 100 genes"),
    "no column": (["data.label_key=celltype"], "known", "data.label_key=celltype: no such column in obs"),
    "no target": (["split.validation=0", "finetuning.target_f1=0.9"], "known", "target_f1 needs validation cells"),
    "no such client": (["finetuning.client=x"], "known", "finetuning.client=x: the newcomers are known"),
    "several clients": (["split=iid", "split.clients=2"], "known", "none of client-1, client-2 is held out"),
    "whole clients": (["split.test=[site9]"], "known", "split.test names site9; the clients are known"),
    "another network": (["model=sccdcg"], "known", r"not those of a ScCDCG: set model= .* \(ScDLC\)"),
    "another preparation": (["data.preprocess=none"], "known", "weights= were trained with another; set the same"),
    "no model": (["weights=nowhere"], "known", "weights=nowhere: no weights.safetensors there"),
}


def start_of_program(cfg: DictConfig) -> None:
    check_early(cfg)
    run(cfg)


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_newcomer_ends_in_one_line(place: Path, tmp_path: Path, bad: str) -> None:
    overrides, file, message = BAD[bad]
    changes = {"capitals": capitals, "renamed": renamed, "symbols": lambda c: c[:, 10:]}
    if file in changes and not (place / f"{file}.h5ad").exists():
        change(place, file, changes[file])
    cfg = compose_config(tmp_path, *_newcomer(place, *overrides, file=file))
    with pytest.raises(InputError, match=message) as raised:
        start_of_program(cfg)
    assert "\n" not in str(raised.value)
    assert not [path for path in (tmp_path / "run").iterdir() if path.name != ".hydra"]


def test_several_files_need_one_that_is_held_out(place: Path, tmp_path: Path) -> None:
    for name, part in {"one": slice(None, None, 2), "two": slice(1, None, 2)}.items():
        change(place, name, lambda cells, part=part: cells[part])
    with pytest.raises(InputError, match=r"none of one, two is held out: set split.newcomers"):
        at_newcomer(place, tmp_path, f"data.path=[{place}/one.h5ad,{place}/two.h5ad]", "finetuning.new_types=true")


def test_a_missing_column_of_clients_is_no_newcomers_concern(place: Path, tmp_path: Path) -> None:
    cfg = compose_config(tmp_path, *_newcomer(place, "data.client_key=hospital"))
    check_early(cfg)
    cfg.split.newcomers = 1
    with pytest.raises(InputError, match=r"data.client_key=hospital: no such column"):
        check_early(cfg)


WIDE = ["weights=model", "regime=finetune"]


@pytest.mark.parametrize(
    ("arguments", "added"),
    [
        (WIDE, ["model=scdlc", "model.width=0.5"]),
        (["-m", *WIDE, "seed=1,2"], ["model=scdlc", "model.width=0.5"]),
        ([*WIDE, "model.width=2"], ["model=scdlc"]),
        ([*WIDE, "model=scsmd"], []),
        (["weights=null"], []),
        (["weights=nowhere"], []),
        (["weights=a,b"], []),
        (["weights='["], []),
        ([], []),
    ],
)
def test_the_network_is_that_of_the_weights(
    place: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], added: list[str]
) -> None:
    monkeypatch.chdir(place)
    assert network_of(arguments, CONFIGS) == added


@pytest.mark.parametrize("changed", [{"_target_": "os.system"}, {"width": "1 hydra.run.dir=/"}, {"hidden": {"a": 1}}])
def test_a_strangers_model_sets_nothing_but_numbers(place: Path, tmp_path: Path, changed: dict[str, Any]) -> None:
    about = json.loads((place / "model/model.json").read_text())
    about["model"] |= changed
    (tmp_path / "model.json").write_text(json.dumps(about))
    added = network_of([f"weights={tmp_path}"], CONFIGS)
    assert added in ([], ["model=scdlc"], ["model=scdlc", "model.width=0.5"])


def test_the_settings_of_a_newcomer_are_checked_before_torch(tmp_path: Path) -> None:
    config = OmegaConf.to_container(compose_config(tmp_path, "finetuning.patience=0"), resolve=True)
    from scfl_green.runs.settings import check_values

    with pytest.raises(InputError, match=r"finetuning.patience=0: input should be greater than 0"):
        check_values(config)
