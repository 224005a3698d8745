"""A whole federation in this process."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from flwr.app import Context, RecordDict
from flwr.serverapp.strategy import Strategy
from flwr.serverapp.strategy.fedopt import FedOpt

from scfl_green.data.partition import Part
from scfl_green.errors import InputError, listed
from scfl_green.federated.apps import client_app, server_app
from scfl_green.federated.grid import LocalGrid
from scfl_green.federated.strategy import QuorumError
from scfl_green.federated.workers import WorkersGrid
from scfl_green.training.job import Job, Weights


@dataclass(frozen=True)
class Federated:
    """The weights of a federation, the clients whose replies were averaged in each round, and the replies that were
    not, a line each."""

    weights: Weights
    clients_by_round: list[int]
    refused: list[str]


def check_sizes(clients: Iterable[Part], min_cells: int) -> None:
    """InputError naming the clients that have fewer than ``min_cells`` training cells: what so few teach is noise, and
    tells of each of them."""
    if few := [f"{part.name} ({len(part.train)})" for part in clients if len(part.train) < min_cells]:
        raise InputError(
            f"clients with fewer than federation.min_cells={min_cells} training cells: {listed(few)}; choose another "
            "data.client_key, fewer split.clients, or federation.min_cells=0 to train with them all the same"
        )


def simulate(
    job: Job,
    parts: Sequence[Part],
    strategy: Strategy,
    rounds: int,
    local_epochs: int,
    min_cells: int = 0,
    min_clients: int | None = None,
    timeout_seconds: float = 3600,
    parallel_clients: int = 1,
) -> Federated:
    """The federation in which every part is a client; no daemon, no start-up.

    With ``parallel_clients`` above 1, as many clients train at a time, each in a worker process, which
    ``timeout_seconds`` then ends if it hangs.
    """
    check_sizes(parts, min_cells)
    if job.prune is not None and isinstance(strategy, FedOpt):
        raise InputError("opt=prune works with federation=fedavg or fedprox; an adaptive server keeps the old shapes")
    of_strategy = ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes")
    least = {"min_clients": min_clients or 0} | {f"strategy.{of}": getattr(strategy, of, 0) for of in of_strategy}
    for setting, n in least.items():
        if n > len(parts):  # Flower would wait for them for ever
            raise InputError(f"federation.{setting}={n}: there are {len(parts)} clients")
    # Flower's log of rounds would tear the progress bar apart; what it says is in the metrics.
    logging.getLogger("flwr").setLevel(logging.WARNING)
    about = client_app(job, parts), [part.name for part in parts], job.meter
    grid = LocalGrid(*about) if parallel_clients == 1 else WorkersGrid(*about, parallel_clients)
    server = server_app(
        job,
        strategy,
        rounds=rounds,
        local_epochs=local_epochs,
        evaluate=all(len(part.validation) for part in parts),
        on_round=partial(job.ended, "round", rounds),
        min_clients=min_clients,
        timeout_seconds=timeout_seconds,
    )
    context = Context(run_id=0, node_id=0, node_config={}, state=RecordDict(), run_config={})
    try:
        server(grid, context)
    except QuorumError as error:
        job.last_good = dict(error.arrays.to_torch_state_dict())
        raise
    finally:
        grid.close()
    weights, history = dict(context.state["arrays"].to_torch_state_dict()), context.state["history"]
    refused = zip(*(history[f"refused-{of}s"] for of in ("round", "client", "reason")), strict=True)
    told = [f"round {round_number}, {parts[node - 1].name}: {reason}" for round_number, node, reason in refused]
    return Federated(weights, list(history["clients-by-round"]), told)
