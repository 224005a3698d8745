"""How the sites of a federation are reached."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from flwr.app import Message
from omegaconf import DictConfig

from scfl_green.data.dataset import Dataset
from scfl_green.data.questions import Ask
from scfl_green.data.site import Answers
from scfl_green.data.wire import Arrays
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.federated.apps import client_app
from scfl_green.federated.asking import answer_of, content_of
from scfl_green.federated.grid import QUERY, LocalGrid, SitesGrid, Trained
from scfl_green.federated.messages import reason_of
from scfl_green.federated.secure import Masks
from scfl_green.federated.site import Site
from scfl_green.federated.workers import WorkersGrid
from scfl_green.models.prune import Weights
from scfl_green.training.job import Job

LOG = logging.getLogger(__name__)


class Network(Protocol):
    """Reaches the sites of a run, for which it is a context. With ``masks``, sums by gene and for the calibration are
    only read over all sites that train."""

    masks: Masks | None

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: Any) -> None: ...

    def dataset(self, cfg: DictConfig, meter: EnergyMeter) -> Dataset | None:
        """The dataset of sites elsewhere, which have prepared it; None where the cells are in this process."""

    def grid(
        self, sites: Sequence[Site], meter: EnergyMeter, *, n_workers: int = 1, trained: Trained | None = None
    ) -> SitesGrid:
        """A grid of sites: a transport of messages, and its accounts."""

    def finish(self, job: Job, weights: Weights, folder: Path) -> None:
        """Give the sites what the run has saved in its folder."""


class Simulated:
    """The sites are objects of this process, and train in turn, or in ``n_workers`` processes at a time."""

    masks: Masks | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def dataset(self, cfg: DictConfig, meter: EnergyMeter) -> None:
        return None

    def finish(self, job: Job, weights: Weights, folder: Path) -> None:
        pass

    def grid(
        self, sites: Sequence[Site], meter: EnergyMeter, *, n_workers: int = 1, trained: Trained | None = None
    ) -> SitesGrid:
        app = client_app(lambda context: sites[int(context.node_config["partition-id"])])
        agreed = next((site.job.agreed for site in sites if site.job), "")
        setup = app, [site.name for site in sites], meter
        if n_workers == 1:
            return LocalGrid(*setup, trained, agreed)
        return WorkersGrid(*setup, n_workers, trained, agreed)


def network_of(job: Job) -> Network:
    """The network of a job: a simulation, unless it has another."""
    return job.network or Simulated()


# What sites have not answered to a question of a kind, and why; raises unless that may be.
Silent = Callable[[str, Mapping[str, str]], None]


def before_training(
    network: Network,
    sites: Mapping[str, Answers | None],
    meter: EnergyMeter,
    timeout_seconds: float = 3600,
    silent: Silent | None = None,
) -> Ask:
    """Ask sites by messages; InputError if one of them does not answer, unless ``silent`` lets it pass."""
    grid = network.grid([Site(name, cells=cells) for name, cells in sites.items()], meter)
    numbers = {name: number for number, name in grid.clients.items()}

    def ask(kind: str, questions: Mapping[str, Arrays]) -> dict[str, Arrays]:
        messages = [
            Message(content_of(question), dst_node_id=numbers[name], message_type=QUERY + kind)
            for name, question in questions.items()
        ]
        answers, missing = dict[str, Arrays](), dict.fromkeys(questions, "no answer in time")
        for reply in grid.send_and_receive(messages, timeout=timeout_seconds):
            name = grid.clients[reply.metadata.src_node_id]
            if (answer := answer_of(reply)) is None:
                missing[name] = reason_of(reply.error) if reply.has_error() else "no answer to the question"
            else:
                del missing[name]
                answers[name] = answer
        if missing:
            (silent or refuse)(kind, missing)
        return {name: answers[name] for name in questions if name in answers}

    return ask


def refuse(kind: str, missing: Mapping[str, str]) -> None:
    """InputError that names the sites that have not answered."""
    told = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
    raise InputError(f"asked to {kind}, before training: {told} (why, is in the log of the site)")
