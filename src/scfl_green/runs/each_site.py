"""Each site alone: what its own cells are worth to it without a federation."""

from copy import deepcopy
from dataclasses import replace

from scfl_green.bounds import Count
from scfl_green.errors import InputError
from scfl_green.federated.federation import Federation
from scfl_green.federated.oneshot import OneShot
from scfl_green.runs.regimes import Outcome, Trained, trained_alone
from scfl_green.training.hooks import Hook, Hooks, State, Step
from scfl_green.training.job import Job
from scfl_green.training.single_site import Arm

PROGRESS = "progress"


def local(job: Job, *, epochs: Count, solver: Federation | OneShot | None = None) -> Outcome:
    """Train a model at each client on its own training cells, all from the same initial weights, or in closed form if
    the federation is."""
    epochs = 1 if isinstance(solver, OneShot) else epochs
    for hook in job.hooks:
        if hook.no_local:
            raise InputError(hook.no_local)
    models, done = [], []
    for site, part in enumerate(job.split.clients.values(), start=1):
        arm = Arm(_name(site), part, job.initial, _hooks(job, site, epochs))
        weights, trained = trained_alone(job, arm, epochs, solver)
        models.append(Trained(weights, [part]))
        done.append(trained)
    return Outcome(models, max(done))


def _name(site: int) -> str:
    return f"site-{site}"


def _hooks(job: Job, site: int, epochs: int) -> Hooks:
    """The hooks of the job, of which progress is that of all sites."""
    hooks = {name: deepcopy(hook) if hook.per_arm else hook for name, hook in job.hooks.members.items()}
    if PROGRESS in hooks:
        # Each site's checkpoint has the progress up to then; the last one begun has all.
        resumes = _name(site + 1) not in job.saved
        hooks[PROGRESS] = _Progress(hooks[PROGRESS], site, epochs, len(job.split.clients), resumes)
    return Hooks(hooks)


class _Progress(Hook):
    """Reports the epochs of one site as part of those of all ``sites``."""

    def __init__(self, whole: Hook, site: int, epochs: int, sites: int, resumes: bool) -> None:
        self.whole, self.site, self.epochs, self.sites, self.resumes = whole, site, epochs, sites, resumes

    def after(self, step: Step) -> None:
        step.metrics |= {"site": self.site, "site_epoch": step.number}
        before = (self.site - 1) * self.epochs
        self.whole.after(replace(step, number=before + step.number, total=self.sites * self.epochs))

    def state_dict(self) -> State:
        return self.whole.state_dict()

    def load_state_dict(self, state: State) -> None:
        if self.resumes:
            self.whole.load_state_dict(state)
