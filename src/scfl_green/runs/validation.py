"""The score of what a run trained on its validation cells, by which settings may be chosen."""

from dataclasses import replace

from scfl_green.runs.regimes import Outcome
from scfl_green.runs.scoring import scored
from scfl_green.training.job import Job
from scfl_green.training.testing import pooled


def validated(job: Job, outcome: Outcome) -> Outcome:
    """The outcome with ``validation_weighted_f1`` in its record: on the validation cells of the parts that each model
    was trained on, pooled; None without such cells, or where validation cells are not to be looked at."""
    models = () if any(hook.no_calibration for hook in job.hooks) else outcome.models
    asked = [(model, [part for part in model.parts if len(part.validation)]) for model in models]
    found = dict(of for model, parts in asked if parts for of in scored(job, model, parts, outcome.survey, {}))
    f1 = pooled(found).scores()["weighted_f1"] if found else None
    return replace(outcome, record=outcome.record | {"validation_weighted_f1": f1})
