"""Saves what a run trained, for others to use."""

from collections.abc import Sequence
from pathlib import Path

from scfl_green.data.dataset import Dataset
from scfl_green.data.seen import Seen
from scfl_green.data.sources.local import contents
from scfl_green.runs.inputs import Inputs
from scfl_green.runs.regimes import Trained
from scfl_green.training.job import Job
from scfl_green.training.trained_model import TrainedModel


def save(inputs: Inputs, dataset: Dataset, models: Sequence[Trained], folder: Path, job: Job) -> str:
    """Save the model in the run's folder, or each of several in its own, by number, since names may be people's; says
    what was saved."""
    before = inputs.start.seen if inputs.start else None
    places = [folder] if len(models) == 1 else [folder / f"site-{number}" for number, _ in enumerate(models, start=1)]
    for trained, place in zip(models, places, strict=True):
        place.mkdir(exist_ok=True)
        seen = Seen.of(trained.parts, contents(inputs.paths), len(dataset.features.labels), before)
        TrainedModel(
            inputs.config["model"],
            trained.weights,
            dataset.preparation,
            dataset.types,
            seen,
            calibration=trained.calibration,
            type_ids=dataset.type_ids,
            precision=job.reusable.precision,
            n_genes_read=dataset.n_genes_read,
        ).save(place)
    return "weights.safetensors, model.json" if len(models) == 1 else f"a model in each of site-1 to site-{len(models)}"
