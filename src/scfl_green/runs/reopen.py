"""Reopens a finished run with its data and its model, for ``leakage``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from scfl_green.data.dataset import Dataset
from scfl_green.data.sources.local import contents
from scfl_green.errors import InputError
from scfl_green.models.base import CellClassifier
from scfl_green.models.prune import resize
from scfl_green.runs.assemble import load_dataset, make_model
from scfl_green.security import targets
from scfl_green.training.trained_model import TrainedModel, has_several

CONFIG = ".hydra/config.yaml"


@dataclass(frozen=True)
class Reopened:
    """A finished run: its unresolved configuration, its dataset, its model with the final weights, the trained model
    that it saved (``left``), and whether it started from untrained weights (``fresh``)."""

    cfg: DictConfig
    dataset: Dataset
    model: CellClassifier
    left: TrainedModel
    fresh: bool


def reopen(folder: Path, trusted: Sequence[str] = ()) -> Reopened:
    """Load a run from its folder, and its data from the cache, or else prepare them again.

    Raises InputError if the run is not finished, if its data are missing or have changed, or if it names code beyond
    the allow-list (``targets.check``), since the folder need not be trusted.
    """
    _check_files(folder)
    cfg, left = OmegaConf.load(folder / CONFIG), TrainedModel.load(str(folder), trusted)
    assert isinstance(cfg, DictConfig)
    # Unresolved, since fine-tuning derives the folder of its weights from the name of the run.
    fresh = not OmegaConf.is_interpolation(cfg, "weights") and cfg.weights is None
    try:
        used = {key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("data", "genes", "split", "model")}
        targets.check(used, trusted)
        dataset = _load_data(cfg, left, None if fresh else left)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    model = make_model(cfg, dataset)
    same = dataset.preparation.key() == left.preparation.key() and dataset.types == left.types
    if not same or model.state_dict().keys() != left.weights.keys():
        raise InputError(f"{folder}: its weights do not match its features or its model; repeat the run")
    resize(model, left.weights)
    model.load_state_dict(left.weights)
    return Reopened(cfg, dataset, model.eval(), left, fresh)


def _check_files(folder: Path) -> None:
    if has_several(folder):
        raise InputError(
            f"{folder}: a run of regime=local, with a model of each site; only a run of one can be reopened"
        )
    if not (folder / CONFIG).exists() and (folder / "SHA256SUMS").is_file():
        raise InputError(f"{folder}: a shared model, which does not tell its cells; only the folder of its run can")
    for name in (CONFIG, "model.json", "weights.safetensors"):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: no {name} there; name the folder of a finished run, such as logs/runs/NAME")


def _load_data(cfg: DictConfig, left: TrainedModel, start: TrainedModel | None) -> Dataset:
    paths = instantiate(cfg.data.source, _partial_=True, _convert_="all")()
    if left.seen.files != [sha256 for _, sha256 in contents(paths)]:
        raise InputError(f"{', '.join(path.name for path in paths)} changed after the run; repeat the run")
    return load_dataset(cfg, paths, start, None)
