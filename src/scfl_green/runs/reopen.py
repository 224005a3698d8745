"""Open a finished run again, with its data and its model, as ``leakage`` does."""

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
from scfl_green.training.trained_model import TrainedModel


@dataclass(frozen=True)
class Reopened:
    """A run as it was when it ended: its configuration (not resolved), its dataset, its model with the final weights,
    the trained model that it left, and whether it began with new weights (``fresh``) and not with those of an earlier
    run."""

    cfg: DictConfig
    dataset: Dataset
    model: CellClassifier
    left: TrainedModel
    fresh: bool


def reopen(folder: Path, trusted: Sequence[str] = ()) -> Reopened:
    """What a run left in its folder, on the data that it was run on, which the cache holds or which are prepared again.

    Raises InputError where the run is not finished, where its data are missing or have changed, and where it names code
    that no configuration may (``targets.check``): the folder may be another's.
    """
    for name in (config := ".hydra/config.yaml", "model.json", "weights.safetensors"):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: no {name} there; name the folder of a finished run, such as logs/runs/NAME")
    cfg, left = OmegaConf.load(folder / config), TrainedModel.load(str(folder), trusted)
    assert isinstance(cfg, DictConfig)
    # Added up exactly, here as over messages.
    cfg.gene_sums = {"_target_": "scfl_green.data.dataset.pooled", "_partial_": True}
    # Not resolved: of fine-tuning, weights are looked for by the name of the run.
    fresh = not OmegaConf.is_interpolation(cfg, "weights") and cfg.weights is None
    try:
        used = {of: OmegaConf.to_container(cfg[of], resolve=True) for of in ("data", "genes", "split", "model")}
        targets.check(used, trusted)
        dataset = _data_again(cfg, left, None if fresh else left)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None
    model = make_model(cfg, dataset)
    same = dataset.preparation.key() == left.preparation.key() and dataset.types == left.types
    if not same or model.state_dict().keys() != left.weights.keys():
        raise InputError(f"{folder}: its weights are of other features or another model than its configuration says")
    resize(model, left.weights)
    model.load_state_dict(left.weights)
    return Reopened(cfg, dataset, model.eval(), left, fresh)


def _data_again(cfg: DictConfig, left: TrainedModel, start: TrainedModel | None) -> Dataset:
    paths = instantiate(cfg.data.source, _partial_=True, _convert_="all")()
    if left.seen.files != [sha256 for _, sha256 in contents(paths)]:
        raise InputError(f"{', '.join(path.name for path in paths)} changed after the run; run it again")
    return load_dataset(cfg, paths, start, None)
