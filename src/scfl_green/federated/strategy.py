"""What any Flower strategy needs to give the same bits for the same seed."""

from collections.abc import Callable, Iterable

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy


class Repeatable(Strategy):
    """Any Flower strategy, with replies taken in order of node id and added up in float64.

    Replies arrive in any order and float sums depend on it, so that otherwise the same seed gives different
    weights from three clients up. What comes back has the dtypes of the weights that were sent out.
    ``between_rounds`` may change the weights of a finished round before they travel on; ``metrics`` keeps each
    round's aggregated training and validation metrics.
    """

    def __init__(
        self,
        strategy: Strategy,
        evaluate: bool = True,
        between_rounds: Callable[[int, ArrayRecord], ArrayRecord] = lambda _, arrays: arrays,
    ) -> None:
        self.strategy, self.evaluate, self.between_rounds = strategy, evaluate, between_rounds
        self.dtypes: dict[str, str] = {}
        self.metrics: dict[int, dict[str, float]] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.dtypes = {name: array.dtype for name, array in arrays.items()}
        return self.strategy.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = _by_node(replies)
        for reply in replies:
            for name, record in reply.content.array_records.items():
                reply.content[name] = _cast(record, dict.fromkeys(record, "float64"))
        arrays, metrics = self.strategy.aggregate_train(server_round, replies)
        self.metrics[server_round] = dict(metrics or {})
        if arrays is not None:
            arrays = self.between_rounds(server_round, _cast(arrays, self.dtypes))
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return self.strategy.configure_evaluate(server_round, arrays, config, grid) if self.evaluate else []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        metrics = self.strategy.aggregate_evaluate(server_round, _by_node(replies))
        self.metrics[server_round] |= dict(metrics or {})
        return metrics

    def summary(self) -> None:
        self.strategy.summary()


def _by_node(replies: Iterable[Message]) -> list[Message]:
    return sorted(replies, key=lambda reply: reply.metadata.src_node_id)


def _cast(record: ArrayRecord, dtypes: dict[str, str]) -> ArrayRecord:
    return ArrayRecord({k: Array(np.asarray(a.numpy(), dtype=dtypes[k])) for k, a in record.items()})
