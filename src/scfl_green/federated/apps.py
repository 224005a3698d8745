"""Ordinary Flower apps of sites and of a server; they run on any Grid."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from scfl_green.data.questions import AGREE, GENES, PREPARE, SUMS, TELL
from scfl_green.energy.ledger import AGGREGATE, CALIBRATE, TEST, TRACKING
from scfl_green.federated.codec import Codec
from scfl_green.federated.grid import AGREED, QUERY, ROUND
from scfl_green.federated.hold import HoldWeights
from scfl_green.federated.once import WeightsOnce, numpy_of, record_of
from scfl_green.federated.resume import check_same, federation_state
from scfl_green.federated.site import Site
from scfl_green.federated.strategy import CheckedStrategy
from scfl_green.models.prune import Weights
from scfl_green.training.callbacks import Proximal
from scfl_green.training.job import Job
from scfl_green.training.survey import MOMENTS

# The name of a federation's state in checkpoints.
PART = "federation"


def client_app(site_of: Callable[[Context], Site], more: Sequence[str] = ()) -> ClientApp:
    """A ClientApp of the site that ``site_of`` finds for the node's context; it answers ``more`` kinds of questions
    than those of training."""
    app = ClientApp(mods=[HoldWeights(site_of)])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        site, config = site_of(context), message.content["config"]
        site.check(str(config.get(AGREED, "")))
        weights, metrics = site.train(_weights(message.content["arrays"]), **_options(config))
        return _reply(message, metrics, site.n_train, {"arrays": ArrayRecord(weights)})

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        site, config = site_of(context), message.content["config"]
        site.check(str(config.get(AGREED, "")))
        metrics = site.validate(_weights(message.content["arrays"]), int(config[ROUND]))
        return _reply(message, metrics, site.n_validation)

    for kind in (TELL, GENES, AGREE, SUMS, PREPARE, CALIBRATE, TEST, MOMENTS, *more):
        app.query(kind)(lambda message, context: _answer(site_of(context), message))
    return app


def _answer(site: Site, message: Message) -> Message:
    """The reply to a question."""
    arrays, kind = message.content.array_records.get("arrays"), message.metadata.message_type.removeprefix(QUERY)
    if arrays is not None:
        site.check(str(message.content["config"].get(AGREED, "")))
    weights = None if arrays is None else _weights(arrays)
    answered = site.answer(kind, numpy_of(message.content["question"]), weights)
    return Message(RecordDict({"answer": record_of(answered)}), reply_to=message)


def _options(config: ConfigRecord) -> dict[str, Any]:
    """The options of ``Fit`` in a message."""
    mu = float(config.get("proximal-mu", 0.0))
    epochs, round_number = int(config["local-epochs"]), int(config[ROUND])
    return {"epochs": epochs, "round_number": round_number, "callbacks": [Proximal(mu)] if mu else []}


def server_app(
    job: Job, strategy: CheckedStrategy, rounds: int, local_epochs: int, codec: Codec | None = None
) -> ServerApp:
    """A ServerApp that runs a strategy from the job's initial weights, or resumes a killed run; calls the job's hooks
    after every round, and leaves the final arrays in the context's state."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        known = ArrayRecord(job.untrained) if job.start is None else None
        between = _Rounds(job, strategy, WeightsOnce(grid, codec, job.seed, known), rounds)
        between.begin()
        with suppress(_StopEarlyError), between.averaging:
            strategy.start(
                between.grid,
                strategy.current,
                num_rounds=rounds - strategy.done,
                train_config=ConfigRecord({"local-epochs": local_epochs}),
                evaluate_fn=between.after,
                timeout=strategy.timeout_seconds,
            )
        context.state["arrays"] = strategy.current

    return app


@dataclass
class _Rounds:
    """What the server does before and between rounds; ``averaging`` charges it for the time within them."""

    job: Job
    strategy: CheckedStrategy
    grid: WeightsOnce
    total: int
    averaging: ExitStack = field(default_factory=ExitStack)

    def begin(self) -> None:
        """Go on from a checkpoint, or from the initial weights; InputError if sites have changed since."""
        now = federation_state(self.job)
        if state := self.job.saved.get(PART):
            # Checkpoints of earlier versions do not tell.
            check_same(state.get("federation", now), now)
            self.job.hooks.load_state_dict(state["hooks"])
            self.strategy.load_state_dict(state)
            self.grid.load_state_dict(state["grid"])
        else:
            self.strategy.current = ArrayRecord(self.job.initial)

    def after(self, round_number: int, arrays: ArrayRecord) -> None:
        """Flower's ``evaluate_fn``, which it also calls before the first round (0)."""
        self.averaging.close()
        if round_number > 0:
            self._end(arrays)
        if self.job.hooks.exhausted:
            raise _StopEarlyError
        number = min(self.strategy.done + round_number + 1, self.total)
        self.averaging.enter_context(self.job.meter.phase(AGGREGATE, number))

    def _end(self, arrays: ArrayRecord) -> None:
        """Call the hooks, start the next round from the weights they return, if any, and write a checkpoint."""
        job, strategy = self.job, self.strategy
        number = max(strategy.clients_by_round)
        job.meter.entry(AGGREGATE, number).bytes_spared, self.grid.spared = self.grid.spared, 0
        step = job.step("round", number, self.total)
        step.metrics |= strategy.metrics[number]
        step.last, step.weights = number == self.total, lambda: _weights(arrays)
        with job.meter.phase(TRACKING):
            changed = job.hooks.after(step)
        strategy.current = arrays if changed is None else ArrayRecord(changed)
        state = {"hooks": job.hooks.state_dict(), "grid": self.grid.state_dict(), "federation": federation_state(job)}
        job.checkpoint(PART, strategy.state_dict() | state)


class _StopEarlyError(Exception):
    """Ends a strategy before its last round; Flower has no other way."""


def _weights(arrays: ArrayRecord) -> Weights:
    return dict(arrays.to_torch_state_dict())


def _reply(message: Message, metrics: dict[str, float], n_cells: int, arrays: dict[str, Any] | None = None) -> Message:
    content = {**(arrays or {}), "metrics": MetricRecord({**metrics, "num-examples": n_cells})}
    return Message(RecordDict(content), reply_to=message)
