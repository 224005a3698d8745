"""CheckedStrategy: makes any Flower strategy bit-reproducible and robust to bad replies."""

import math
import random
from collections.abc import Iterable, Mapping

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from scfl_green.errors import InputError, listed
from scfl_green.federated.checks import Expected, Refusal, evaluate_flaw, odd_metrics, train_flaw
from scfl_green.federated.resume import load_strategy_state, strategy_state
from scfl_green.models.prune import Weights
from scfl_green.training.hooks import State


class QuorumError(InputError):
    """Too few valid replies in a round; ``weights`` are those of the last good round, None if there was none."""

    def __init__(self, message: str, weights: Weights | None) -> None:
        super().__init__(message)
        self.weights = weights


class CheckedStrategy(Strategy):
    """Wraps any Flower strategy: checks every reply, and gives the same bits for the same seed.

    Replies are averaged in order of node id and in float64, since float sums depend on the order; results have the
    dtypes of the weights sent. Replies that fail a check are excluded, as if their clients had not been sampled, and
    recorded in ``refused``. If fewer than ``min_clients`` remain (None: fewer than were sampled), the round is repeated
    once, and then ends in a QuorumError. The clients sampled depend only on ``seed`` and the round's number.

    ``cells`` are the training cells that each node has told of, and ``validation_cells`` those of validation, which no
    reply may exceed, ``metrics`` each round's aggregated training and validation metrics, ``current`` the weights that
    the next round starts from, ``done`` the rounds finished by a killed run.
    """

    def __init__(
        self,
        strategy: Strategy,
        evaluate: bool = True,
        min_clients: int | None = None,
        timeout_seconds: float = 3600,
        seed: int = 0,
        *,
        cells: Mapping[int, float] | None = None,
        validation_cells: Mapping[int, float] | None = None,
    ) -> None:
        self.strategy, self.evaluate, self.min_clients = strategy, evaluate, min_clients
        self.timeout_seconds, self.seed, self.done = timeout_seconds, seed, 0
        self.current: ArrayRecord | None = None
        self.sent = ArrayRecord()
        self.cells, self.validation_cells = cells or {}, validation_cells or {}
        self.metrics: dict[int, dict[str, float]] = {}
        self.refused: list[Refusal] = []
        self.clients_by_round: dict[int, int] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        server_round += self.done
        # Flower passes the weights it aggregated; a hook may have changed them since.
        arrays = arrays if self.current is None else self.current
        random.seed(f"{self.seed}, round {server_round}")
        messages = list(self.strategy.configure_train(server_round, arrays, config, grid))
        self.sent, self.grid, self.asked = arrays, grid, messages
        self.expected = {name: Expected.of(array) for name, array in arrays.items()}
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        server_round += self.done
        good = self._quorum(server_round, replies)
        self.clients_by_round[server_round] = len(good)
        for reply in good:
            (record,) = reply.content.array_records.values()
            for name, array in record.items():  # in place: a new record would convert them to plain Arrays
                record[name] = _Wide(array.dtype, array.shape, array.stype, array.data)
        arrays, metrics = self.strategy.aggregate_train(server_round, good)
        self.metrics[server_round] = dict(metrics or {})
        if arrays is not None:
            cast = {name: Array(array.numpy().astype(self.sent[name].dtype)) for name, array in arrays.items()}
            arrays = ArrayRecord(cast)
        return arrays, metrics

    def _quorum(self, server_round: int, replies: Iterable[Message]) -> list[Message]:
        """The valid replies, of a second attempt if the first has too few; QuorumError if both do."""
        good = self._good(server_round, replies)
        needed = len(self.asked) if self.min_clients is None else self.min_clients
        if len(good) < needed:
            # New messages, since a grid numbers the messages it sends.
            repeated = [
                Message(m.content, dst_node_id=m.metadata.dst_node_id, message_type=m.metadata.message_type)
                for m in self.asked
            ]
            good = self._good(server_round, self.grid.send_and_receive(repeated, timeout=self.timeout_seconds))
        if len(good) < needed:
            reasons = [f"client {r.client}: {r.reason}" for r in self.refused if r.round == server_round]
            raise QuorumError(
                f"round {server_round}: {len(good)} of {len(self.asked)} clients replied well, {needed} are needed "
                f"(federation.min_clients); {listed(dict.fromkeys(reasons))}",
                dict(self.sent.to_torch_state_dict()) if self.clients_by_round else None,
            )
        return good

    def _good(self, server_round: int, replies: Iterable[Message]) -> list[Message]:
        """The valid training replies, in order of node id."""
        ordered = _by_node(replies)
        by_node = {reply.metadata.src_node_id: reply for reply in ordered}
        flaws = {node: train_flaw(r, self.expected, self.cells.get(node, math.inf)) for node, r in by_node.items()}
        return self._without(server_round, ordered, flaws)

    def _without(self, server_round: int, replies: list[Message], flaws: Mapping[int, str | None]) -> list[Message]:
        """The replies without flaws; the others are recorded in ``refused``."""
        valid = [reply for reply in replies if flaws[reply.metadata.src_node_id] is None]
        reasons = {node: flaw for node, flaw in flaws.items() if flaw is not None} | odd_metrics(valid)
        self.refused += [Refusal(server_round, node, reason) for node, reason in sorted(reasons.items())]
        return [reply for reply in valid if reply.metadata.src_node_id not in reasons]

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        if not self.evaluate:
            return []
        return self.strategy.configure_evaluate(server_round + self.done, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        server_round += self.done
        ordered, told = _by_node(replies), self.validation_cells
        by_node = {reply.metadata.src_node_id: reply for reply in ordered}
        flaws = {node: evaluate_flaw(reply, told.get(node, math.inf)) for node, reply in by_node.items()}
        good = self._without(server_round, ordered, flaws)
        metrics = self.strategy.aggregate_evaluate(server_round, good)
        self.metrics[server_round] |= dict(metrics or {})
        return metrics

    def summary(self) -> None:
        self.strategy.summary()

    def state_dict(self) -> State:
        """What a killed run needs to resume after its last round."""
        assert self.current is not None
        return {
            "weights": dict(self.current.to_torch_state_dict()),
            "strategy": strategy_state(self.strategy),
            "clients_by_round": self.clients_by_round,
            "refused": [vars(refusal) for refusal in self.refused],
        }

    def load_state_dict(self, state: State) -> None:
        self.current = ArrayRecord(state["weights"])
        load_strategy_state(self.strategy, state["strategy"])
        self.clients_by_round = state["clients_by_round"]
        self.refused = [Refusal(**refusal) for refusal in state["refused"]]
        self.done = max(self.clients_by_round)


def _by_node(replies: Iterable[Message]) -> list[Message]:
    return sorted(replies, key=lambda reply: reply.metadata.src_node_id)


class _Wide(Array):
    """An array of a reply that Flower averages in float64."""

    def numpy(self) -> np.ndarray:
        return super().numpy().astype(np.float64)
