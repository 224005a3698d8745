"""The score of what a run trained on its validation cells, by which settings may be chosen."""

from dataclasses import replace

from scfl_green.runs.regimes import Outcome
from scfl_green.runs.scoring import scored
from scfl_green.training.job import Job
from scfl_green.training.testing import pooled

F1 = ("weighted_f1", "macro_f1")


def validated(job: Job, outcome: Outcome) -> Outcome:
    """The outcome with ``validation_weighted_f1`` and ``validation_macro_f1`` in its record: on the validation cells of
    the parts that each model was trained on, pooled; None without such cells, or where they are not to be looked at."""
    models = () if any(hook.no_calibration for hook in job.hooks) else outcome.models
    asked = [(model, [part for part in model.parts if len(part.validation)]) for model in models]
    found = dict(of for model, parts in asked if parts for of in scored(job, model, parts, outcome.survey, {}))
    scores = pooled(found).scores() if found else {}
    return replace(outcome, record=outcome.record | {f"validation_{of}": scores.get(of) for of in F1})
