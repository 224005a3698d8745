"""A whole federation in this process."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from flwr.app import Context, RecordDict
from flwr.serverapp.strategy import Strategy
from flwr.serverapp.strategy.fedopt import FedOpt
from pydantic import NonNegativeInt

from scfl_green.bounds import Count, Positive
from scfl_green.data.partition import Part
from scfl_green.errors import InputError, listed
from scfl_green.federated.apps import client_app, server_app
from scfl_green.federated.grid import LocalGrid
from scfl_green.federated.strategy import CheckedStrategy
from scfl_green.federated.workers import WorkersGrid
from scfl_green.models.prune import Weights
from scfl_green.training.job import Job

LEAST = ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes")


@dataclass(frozen=True)
class Federation:
    """How clients train together: a strategy of ``flwr.serverapp.strategy``, for so many rounds of so many epochs.

    Every client must have ``min_cells`` training cells. A round needs good replies from ``min_clients`` (None: from all
    that were asked) and waits ``timeout_seconds`` for them. With ``parallel_clients`` above 1, as many train at a time,
    each in a worker process, which is ended if it exceeds the time-out.
    """

    strategy: Strategy
    rounds: Count
    local_epochs: Count
    min_cells: NonNegativeInt = 0
    min_clients: Count | None = None
    timeout_seconds: Positive = 3600
    parallel_clients: Count = 1

    def check(self, n_clients: int, reshapes: bool) -> None:
        """InputError for what could not work with so many clients, or with weights that change their shapes."""
        if reshapes and isinstance(self.strategy, FedOpt):
            raise InputError(
                "opt=prune works with federation=fedavg or fedprox; an adaptive server keeps the old shapes"
            )
        least = {f"strategy.{setting}": getattr(self.strategy, setting, 0) for setting in LEAST}
        for setting, n in {"min_clients": self.min_clients or 0, **least}.items():
            if n > n_clients:  # Flower would wait for them for ever
                raise InputError(f"federation.{setting}={n}: there are {n_clients} clients")


@dataclass(frozen=True)
class Federated:
    """The weights of a federation, the rounds that it took, and fields for the record: the clients whose replies were
    averaged in each round, and the replies that were not, a line each."""

    weights: Weights
    rounds: int
    record: dict[str, Any]


def check_sizes(clients: Iterable[Part], min_cells: int) -> None:
    """InputError naming the clients that have fewer than ``min_cells`` training cells: what so few teach is noise, and
    reveals most about each of them."""
    if few := [f"{part.name} ({len(part.train)})" for part in clients if len(part.train) < min_cells]:
        raise InputError(
            f"clients with fewer than federation.min_cells={min_cells} training cells: {listed(few)}; choose another "
            "data.client_key, fewer split.clients, or federation.min_cells=0 to train with them all the same"
        )


def simulate(job: Job, parts: Sequence[Part], federation: Federation) -> Federated:
    """Run the federation in which every part is a client; no daemon, no start-up."""
    check_sizes(parts, federation.min_cells)
    federation.check(len(parts), any(hook.reshapes for hook in job.hooks))
    # Flower's log of rounds would tear the progress bar apart; what it says is in the metrics.
    logging.getLogger("flwr").setLevel(logging.WARNING)
    clients = client_app(job, parts), [part.name for part in parts], job.meter
    n_workers = federation.parallel_clients
    grid = LocalGrid(*clients) if n_workers == 1 else WorkersGrid(*clients, n_workers)
    strategy = CheckedStrategy(
        federation.strategy,
        evaluate=all(len(part.validation) for part in parts),
        min_clients=federation.min_clients,
        timeout_seconds=federation.timeout_seconds,
        seed=job.seed,
    )
    server = server_app(job, strategy, federation.rounds, federation.local_epochs)
    context = Context(run_id=0, node_id=0, node_config={}, state=RecordDict(), run_config={})
    try:
        server(grid, context)
    finally:
        grid.close()
    refused = [f"round {r.round}, {parts[r.client - 1].name}: {r.reason}" for r in strategy.refused]
    record = {"clients_by_round": [*strategy.clients_by_round.values()], "refused": refused}
    return Federated(dict(context.state["arrays"].to_torch_state_dict()), max(strategy.clients_by_round), record)
