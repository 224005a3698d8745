"""Ordinary Flower apps around a Job: nothing in them knows on which Grid they run."""

from collections.abc import Callable, Sequence
from functools import partial

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy

from scfl_green.data.partition import Part
from scfl_green.federated.resume import keep_round, take_up
from scfl_green.federated.strategy import QuorumError, Repeatable
from scfl_green.training.callbacks import Proximal
from scfl_green.training.job import Job, Weights

# Told of every round.
OnRound = Callable[[int, dict[str, float]], object]


def client_app(job: Job, parts: Sequence[Part]) -> ClientApp:
    """A ClientApp that trains and validates on the part that the node's ``partition-id`` names."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        config = message.content["config"]
        mu = float(config.get("proximal-mu", 0.0))
        part = parts[int(context.node_config["partition-id"])]
        weights, metrics = job.fit(
            part,
            _weights(message),
            epochs=int(config["local-epochs"]),
            round_number=int(config["server-round"]),
            callbacks=[Proximal(mu)] if mu else [],
        )
        content = {"arrays": ArrayRecord(weights), "metrics": _metrics(metrics, len(part.train))}
        return Message(RecordDict(content), reply_to=message)

    @app.query()
    def tell_cells(message: Message, context: Context) -> Message:
        n_cells = len(parts[int(context.node_config["partition-id"])].train)
        return Message(RecordDict({"metrics": _metrics({}, n_cells)}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        part = parts[int(context.node_config["partition-id"])]
        metrics = job.validate(part, _weights(message), int(message.content["config"]["server-round"]))
        return Message(RecordDict({"metrics": _metrics(metrics, len(part.validation))}), reply_to=message)

    return app


def server_app(
    job: Job,
    strategy: Strategy,
    *,
    rounds: int,
    local_epochs: int,
    evaluate: bool,
    on_round: OnRound,
    min_clients: int | None = None,
    timeout_seconds: float = 3600,
) -> ServerApp:
    """A ServerApp that runs the strategy from the job's initial weights, or on from its checkpoint, and tells of every
    round; the last arrays (the best on validation cells, where the job has a budget) are left in the context's state.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        repeatable = Repeatable(
            strategy, evaluate, partial(_pruned, job), min_clients, timeout_seconds=timeout_seconds, seed=job.seed
        )
        if (taken_up := take_up(job.checkpoint, repeatable)) is None:
            repeatable.cells = _ask_for_cells(grid, timeout_seconds)
            taken_up = (initial := ArrayRecord(job.initial)), (-1.0, initial)
        last, best = taken_up

        def after_round(server_round: int, arrays: ArrayRecord) -> None:
            nonlocal last, best
            if server_round > 0:
                last, server_round = arrays, server_round + repeatable.done
                metrics = repeatable.metrics[server_round]
                best = max(best, (metrics.get("validation/weighted_f1", 0.0), arrays), key=lambda scored: scored[0])
                on_round(server_round, metrics)
                keep_round(job.checkpoint, repeatable, arrays, best if job.budget else None)
                job.keep()
            if job.enough:
                raise _EnoughError

        try:
            repeatable.start(
                grid,
                last,
                num_rounds=rounds - repeatable.done,
                train_config=ConfigRecord({"local-epochs": local_epochs}),
                evaluate_fn=after_round,
                timeout=timeout_seconds,
            )
        except _EnoughError:
            pass
        except QuorumError as error:
            context.state["arrays"] = error.arrays
            raise
        context.state["arrays"] = best[1] if job.budget else last
        context.state["history"] = _history(repeatable)

    return app


def _history(repeatable: Repeatable) -> ConfigRecord:
    """How many clients each round averaged, and which replies it left out, as a record can hold it."""
    fields = {of: [getattr(r, of) for r in repeatable.refused] for of in ("round", "client", "reason")}
    refused = {f"refused-{of}s": values for of, values in fields.items()}
    return ConfigRecord({"clients-by-round": [*repeatable.clients_by_round.values()], **refused})


def _ask_for_cells(grid: Grid, timeout_seconds: float) -> dict[int, float]:
    """The training cells that each node has, as it tells before the first round."""
    content = RecordDict({"config": ConfigRecord()})
    asked = [Message(content, dst_node_id=node, message_type="query") for node in grid.get_node_ids()]
    replies = grid.send_and_receive(asked, timeout=timeout_seconds)
    told = {reply.metadata.src_node_id: reply for reply in replies if not reply.has_error()}
    return {node: float(reply.content["metrics"]["num-examples"]) for node, reply in told.items()}


class _EnoughError(Exception):
    """Flower's strategies know no other way to end before the last round."""


def _pruned(job: Job, server_round: int, arrays: ArrayRecord) -> ArrayRecord:
    if job.prune is None or server_round != job.prune.after_round:
        return arrays
    return ArrayRecord(job.pruned(dict(arrays.to_torch_state_dict())))


def _weights(message: Message) -> Weights:
    return dict(message.content["arrays"].to_torch_state_dict())


def _metrics(metrics: dict[str, float], n_cells: int) -> MetricRecord:
    return MetricRecord({**metrics, "num-examples": n_cells})
