"""Ordinary Flower apps around a Job; they run on any Grid."""

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from scfl_green.data.partition import Part
from scfl_green.energy.ledger import AGGREGATE, TRACKING
from scfl_green.federated.once import WeightsOnce, hold_weights
from scfl_green.federated.strategy import CheckedStrategy
from scfl_green.models.prune import Weights
from scfl_green.training.callbacks import Proximal
from scfl_green.training.job import Job

# The name of a federation's state in checkpoints.
PART = "federation"


def client_app(job: Job, parts: Sequence[Part]) -> ClientApp:
    """A ClientApp that trains and validates on the part given by the node's ``partition-id``."""
    app = ClientApp(mods=[hold_weights])

    def part_of(context: Context) -> Part:
        return parts[int(context.node_config["partition-id"])]

    @app.train()
    def train(message: Message, context: Context) -> Message:
        part = part_of(context)
        weights, metrics = job.fit(part, _weights(message.content["arrays"]), **_options(message.content["config"]))
        return _reply(message, metrics, len(part.train), {"arrays": ArrayRecord(weights)})

    @app.query()
    def count_cells(message: Message, context: Context) -> Message:
        return _reply(message, {}, len(part_of(context).train))

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        part, round_number = part_of(context), int(message.content["config"]["server-round"])
        metrics = job.validate(part, _weights(message.content["arrays"]), round_number)
        return _reply(message, metrics, len(part.validation))

    return app


def _options(config: ConfigRecord) -> dict[str, Any]:
    """The options of ``Fit`` in a message."""
    mu = float(config.get("proximal-mu", 0.0))
    epochs, round_number = int(config["local-epochs"]), int(config["server-round"])
    return {"epochs": epochs, "round_number": round_number, "callbacks": [Proximal(mu)] if mu else []}


def server_app(job: Job, strategy: CheckedStrategy, rounds: int, local_epochs: int) -> ServerApp:
    """A ServerApp that runs a strategy from the job's initial weights, or resumes a killed run; calls the job's hooks
    after every round, and leaves the final arrays in the context's state."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        once = _begin(job, strategy, grid)
        averaging = ExitStack()

        def after_round(round_number: int, arrays: ArrayRecord) -> None:
            averaging.close()
            if round_number > 0:
                _end_round(job, strategy, arrays, rounds, once)
            if job.hooks.exhausted:
                raise _StopEarlyError
            averaging.enter_context(job.meter.phase(AGGREGATE, min(strategy.done + round_number + 1, rounds)))

        with suppress(_StopEarlyError), averaging:
            strategy.start(
                once,
                strategy.current,
                num_rounds=rounds - strategy.done,
                train_config=ConfigRecord({"local-epochs": local_epochs}),
                evaluate_fn=after_round,
                timeout=strategy.timeout_seconds,
            )
        context.state["arrays"] = strategy.current

    return app


def _begin(job: Job, strategy: CheckedStrategy, grid: Grid) -> WeightsOnce:
    once = WeightsOnce(grid)
    strategy.ask_for_cells(once)
    if state := job.saved.get(PART):
        job.hooks.load_state_dict(state["hooks"])
        strategy.load_state_dict(state)
        once.held = state["held"]
    else:
        strategy.current = ArrayRecord(job.initial)
    return once


def _end_round(job: Job, strategy: CheckedStrategy, arrays: ArrayRecord, rounds: int, grid: WeightsOnce) -> None:
    """Call the hooks, start the next round from the weights they return, if any, and write a checkpoint."""
    number = max(strategy.clients_by_round)
    step = job.step("round", number, rounds)
    step.metrics |= strategy.metrics[number]
    step.last, step.weights = number == rounds, lambda: _weights(arrays)
    with job.meter.phase(TRACKING):
        changed = job.hooks.after(step)
    strategy.current = arrays if changed is None else ArrayRecord(changed)
    job.checkpoint(PART, strategy.state_dict() | {"hooks": job.hooks.state_dict(), "held": grid.held})


class _StopEarlyError(Exception):
    """Ends a strategy before its last round; Flower has no other way."""


def _weights(arrays: ArrayRecord) -> Weights:
    return dict(arrays.to_torch_state_dict())


def _reply(message: Message, metrics: dict[str, float], n_cells: int, arrays: dict[str, Any] | None = None) -> Message:
    content = {**(arrays or {}), "metrics": MetricRecord({**metrics, "num-examples": n_cells})}
    return Message(RecordDict(content), reply_to=message)
