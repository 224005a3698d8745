"""A federation, however its sites are reached."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, Context, RecordDict
from flwr.serverapp.strategy import Strategy
from flwr.serverapp.strategy.fedopt import FedOpt
from pydantic import NonNegativeInt

from scfl_green.bounds import Count, Positive
from scfl_green.data.partition import Part
from scfl_green.errors import InputError, listed
from scfl_green.federated.apps import PART, server_app
from scfl_green.federated.carbon_aware import CarbonAware
from scfl_green.federated.codec import Codec
from scfl_green.federated.grid import SitesGrid
from scfl_green.federated.network import network_of
from scfl_green.federated.once import name_of
from scfl_green.federated.site import sites_of
from scfl_green.federated.strategy import CheckedStrategy
from scfl_green.models.prune import Weights
from scfl_green.training.hooks import Hook, PartialStep
from scfl_green.training.job import Job

MINIMA = ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes")


@dataclass(frozen=True)
class Federated:
    """The final weights, the number of rounds, and fields for the record: the clients averaged in each round, and a
    line per refused reply."""

    weights: Weights
    rounds: int
    record: dict[str, Any]


@dataclass(frozen=True)
class Federation:
    """Settings of a federation: a strategy of ``flwr.serverapp.strategy``, its rounds, and the local epochs of each.

    Every client must have ``min_cells`` training cells. In each round ``clients_per_round`` of them train and
    validate, drawn anew (None: the strategy's own shares, all by default). A round needs valid replies from
    ``min_clients`` (None: all sampled) and waits ``timeout_seconds`` for them. With ``parallel_clients`` above 1, that
    many train at a time, each in a worker process, which is killed if it exceeds the time-out. With a ``codec``, the
    change of weights is sent in fewer bytes (``federated.codec``).
    """

    strategy: Strategy
    rounds: Count
    local_epochs: Count
    min_cells: NonNegativeInt = 0
    min_clients: Count | None = None
    timeout_seconds: Positive = 3600
    parallel_clients: Count = 1
    codec: Codec | None = None
    clients_per_round: Count | None = None

    def __post_init__(self) -> None:
        if self.clients_per_round is not None:
            for sampled in ("train", "evaluate"):
                # Flower's strategies sample a share of all nodes, but at least so many.
                setattr(self.strategy, f"fraction_{sampled}", 1e-9)
                setattr(self.strategy, f"min_{sampled}_nodes", self.clients_per_round)

    def check(self, n_clients: int, hooks: Iterable[Hook]) -> None:
        """Raises InputError for settings that do not fit the number of clients, or what hooks do."""
        hooks = [*hooks]
        if isinstance(self.strategy, FedOpt) and any(hook.reshapes for hook in hooks):
            raise InputError("opt=prune needs federation=fedavg or fedprox: an adaptive server keeps the old shapes")
        if isinstance(self.strategy, CarbonAware):
            self.strategy.check(self.min_clients, any(hook.validates for hook in hooks))
        minima = {f"strategy.{setting}": getattr(self.strategy, setting, 0) for setting in MINIMA}
        ours = {"clients_per_round": self.clients_per_round or 0, "min_clients": self.min_clients or 0}
        for setting, n in {**ours, **minima}.items():
            if n > n_clients:  # Flower would wait for them forever
                raise InputError(f"federation.{setting}={n}: there are {n_clients} clients")
        if (self.min_clients or 0) > (sampled := self._sampled("train", n_clients)):
            raise InputError(f"federation.min_clients={self.min_clients}: a round samples {sampled} clients")
        if any(hook.validates for hook in hooks) and 0 < (few := self._sampled("evaluate", n_clients)) < n_clients:
            raise InputError(
                f"each round is validated by {few} other clients of {n_clients}, which does not tell which round is "
                "best: set end=last, and leave out callbacks=carbon_budget"
            )

    def _sampled(self, purpose: str, n_clients: int) -> int:
        """How many clients a round samples, as Flower's strategies do."""
        fraction = getattr(self.strategy, f"fraction_{purpose}", 1.0)
        return max(int(n_clients * fraction), getattr(self.strategy, f"min_{purpose}_nodes", 1)) if fraction else 0

    def train(self, job: Job, parts: Sequence[Part]) -> Federated:
        """Run the federation with the clients ``parts``, by the network of the job."""
        check_sizes(parts, self.min_cells)
        self.check(len(parts), job.hooks)
        # Flower's log would break the progress bar; the metrics contain the same.
        logging.getLogger("flwr").setLevel(logging.WARNING)
        grid = _grid(job, parts, self)
        if isinstance(self.strategy, CarbonAware):
            self.strategy.begin(job.meter, grid.clients, self.rounds)
        strategy = CheckedStrategy(
            self.strategy,
            evaluate=all(len(part.validation) for part in parts),
            min_clients=self.min_clients,
            timeout_seconds=self.timeout_seconds,
            seed=job.seed,
            cells={number: float(len(part.train)) for number, part in enumerate(parts, start=1)},
            validation_cells={number: float(len(part.validation)) for number, part in enumerate(parts, start=1)},
        )
        server = server_app(job, strategy, self.rounds, self.local_epochs, self.codec)
        context = Context(run_id=0, node_id=0, node_config={}, state=RecordDict(), run_config={})
        try:
            server(grid, context)
        finally:
            grid.close()
        refused = [f"round {r.round}, {parts[r.client - 1].name}: {r.reason}" for r in strategy.refused]
        record = {"clients_by_round": [*strategy.clients_by_round.values()], "refused": refused}
        return Federated(dict(context.state["arrays"].to_torch_state_dict()), max(strategy.clients_by_round), record)


def check_sizes(clients: Iterable[Part], min_cells: int) -> None:
    """Raises InputError for clients with fewer than ``min_cells`` training cells: updates from few cells are noise, and
    reveal the most about each cell."""
    if few := [f"{part.name} ({len(part.train)})" for part in clients if len(part.train) < min_cells]:
        raise InputError(
            f"clients with fewer than federation.min_cells={min_cells} training cells: {listed(few)}; choose another "
            "data.client_key, fewer split.clients, or federation.min_cells=0 to train with them anyway"
        )


def _grid(job: Job, parts: Sequence[Part], federation: Federation) -> SitesGrid:
    """The grid of these clients, as a killed run left them."""

    def trained(number: int, done: int, of: int) -> None:
        job.hooks.within(PartialStep("round", number, federation.rounds, done, of, "clients"))

    sites = sites_of(job, parts, federation.codec)
    grid = network_of(job).grid(sites, job.meter, n_workers=federation.parallel_clients, trained=trained)
    if state := job.saved.get(PART):
        weights = [ArrayRecord(of) for of in (state["weights"], *state["grid"]["arrays"].values())]
        grid.load_state_dict(state["grid"]["sites"], {name_of(of): of for of in weights})
    return grid
