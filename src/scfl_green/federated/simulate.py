"""A whole federation in this process."""

import logging
from collections.abc import Sequence
from functools import partial

from flwr.app import Context, RecordDict
from flwr.serverapp.strategy import Strategy
from flwr.serverapp.strategy.fedopt import FedOpt

from scfl_green.data.partition import Part
from scfl_green.errors import InputError
from scfl_green.federated.apps import client_app, server_app
from scfl_green.federated.grid import LocalGrid
from scfl_green.job import Job, Weights


def simulate(job: Job, parts: Sequence[Part], strategy: Strategy, rounds: int, local_epochs: int) -> Weights:
    """The weights that the strategy arrives at when every part is a client; no daemon, no start-up."""
    if job.prune is not None and isinstance(strategy, FedOpt):
        raise InputError("opt=prune works with federation=fedavg or fedprox; an adaptive server keeps the old shapes")
    for name in ("min_train_nodes", "min_evaluate_nodes", "min_available_nodes"):
        if (least := getattr(strategy, name, 0)) > len(parts):  # Flower would wait for them for ever
            raise InputError(f"federation.strategy.{name}={least}: there are {len(parts)} clients")
    # Flower's log of rounds would tear the progress bar apart; what it says is in the metrics.
    logging.getLogger("flwr").setLevel(logging.WARNING)
    grid = LocalGrid(client_app(job, parts), [part.name for part in parts], job.meter)
    server = server_app(
        job,
        strategy,
        rounds=rounds,
        local_epochs=local_epochs,
        evaluate=all(len(part.validation) for part in parts),
        on_round=partial(job.ended, "round", rounds),
    )
    context = Context(run_id=0, node_id=0, node_config={}, state=RecordDict(), run_config={})
    server(grid, context)
    return dict(context.state["arrays"].to_torch_state_dict())
