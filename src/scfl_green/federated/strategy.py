"""CheckedStrategy: any Flower strategy, repeatable to the bit and safe from bad replies."""

import math
import random
from collections.abc import Iterable, Mapping

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from scfl_green.errors import InputError, listed
from scfl_green.federated.checks import Expected, Refusal, evaluate_flaw, odd_metrics, train_flaw
from scfl_green.federated.resume import load_strategy_state, strategy_state
from scfl_green.models.prune import Weights
from scfl_green.training.hooks import State


class QuorumError(InputError):
    """Too few clients of a round have replied well; ``weights`` are those of the last good round, None before one."""

    def __init__(self, message: str, weights: Weights | None) -> None:
        super().__init__(message)
        self.weights = weights


class CheckedStrategy(Strategy):
    """Wraps any Flower strategy: checks every reply, and gives the same bits for the same seed.

    Replies are taken in order of node id and added up in float64, since they arrive in any order and float sums depend
    on it; results have the dtypes of the weights that were sent out. A reply that fails its checks is left out, as if
    its client had not been asked (``refused`` keeps who, when and why); with fewer than ``min_clients`` left, or than
    were asked if None, the round is asked again, once, and then the run ends in a QuorumError. Which clients a round
    samples depends on ``seed`` and its number alone.

    ``cells`` are the training cells that each node has reported, ``metrics`` each round's aggregated training and
    validation metrics, ``current`` the weights that the next round starts from; ``done`` rounds had been finished by a
    run that was killed.
    """

    def __init__(
        self,
        strategy: Strategy,
        evaluate: bool = True,
        min_clients: int | None = None,
        timeout_seconds: float = 3600,
        seed: int = 0,
    ) -> None:
        self.strategy, self.evaluate, self.min_clients = strategy, evaluate, min_clients
        self.timeout_seconds, self.seed, self.done = timeout_seconds, seed, 0
        self.current: ArrayRecord | None = None
        self.sent = ArrayRecord()
        self.cells: dict[int, float] = {}
        self.metrics: dict[int, dict[str, float]] = {}
        self.refused: list[Refusal] = []
        self.clients_by_round: dict[int, int] = {}

    def ask_for_cells(self, grid: Grid) -> None:
        """Ask every node for the number of its training cells, which no later reply may exceed."""
        content = RecordDict({"config": ConfigRecord()})
        queries = [Message(content, dst_node_id=node, message_type="query") for node in grid.get_node_ids()]
        replies = grid.send_and_receive(queries, timeout=self.timeout_seconds)
        good = {reply.metadata.src_node_id: reply for reply in replies if not reply.has_error()}
        self.cells = {node: float(reply.content["metrics"]["num-examples"]) for node, reply in good.items()}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        server_round += self.done
        # Flower goes on with the weights that it aggregated; a hook may have changed them since.
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
            for name, array in record.items():  # in place: a new record would make plain Arrays of them
                record[name] = _Wide(array.dtype, array.shape, array.stype, array.data)
        arrays, metrics = self.strategy.aggregate_train(server_round, good)
        self.metrics[server_round] = dict(metrics or {})
        if arrays is not None:
            cast = {name: Array(array.numpy().astype(self.sent[name].dtype)) for name, array in arrays.items()}
            arrays = ArrayRecord(cast)
        return arrays, metrics

    def _quorum(self, server_round: int, replies: Iterable[Message]) -> list[Message]:
        """Enough good replies, if need be by asking a second time; QuorumError where they are too few."""
        good = self._good(server_round, replies)
        least = len(self.asked) if self.min_clients is None else self.min_clients
        if len(good) < least:
            # New messages, since a grid numbers those that it has sent.
            again = [
                Message(m.content, dst_node_id=m.metadata.dst_node_id, message_type=m.metadata.message_type)
                for m in self.asked
            ]
            good = self._good(server_round, self.grid.send_and_receive(again, timeout=self.timeout_seconds))
        if len(good) < least:
            reasons = [f"client {r.client}: {r.reason}" for r in self.refused if r.round == server_round]
            raise QuorumError(
                f"round {server_round}: {len(good)} of {len(self.asked)} clients replied well, {least} are needed "
                f"(federation.min_clients); {listed(dict.fromkeys(reasons))}",
                dict(self.sent.to_torch_state_dict()) if self.clients_by_round else None,
            )
        return good

    def _good(self, server_round: int, replies: Iterable[Message]) -> list[Message]:
        """The replies that can be averaged, in order of node id."""
        every = _by_node(replies)
        by_node = {reply.metadata.src_node_id: reply for reply in every}
        flaws = {node: train_flaw(r, self.expected, self.cells.get(node, math.inf)) for node, r in by_node.items()}
        return self._without(server_round, every, flaws)

    def _without(self, server_round: int, replies: list[Message], flaws: Mapping[int, str | None]) -> list[Message]:
        well = [reply for reply in replies if flaws[reply.metadata.src_node_id] is None]
        reasons = {node: flaw for node, flaw in flaws.items() if flaw is not None} | odd_metrics(well)
        self.refused += [Refusal(server_round, node, reason) for node, reason in sorted(reasons.items())]
        return [reply for reply in well if reply.metadata.src_node_id not in reasons]

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        if not self.evaluate:
            return []
        return self.strategy.configure_evaluate(server_round + self.done, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        server_round += self.done
        every = _by_node(replies)
        good = self._without(server_round, every, {r.metadata.src_node_id: evaluate_flaw(r) for r in every})
        metrics = self.strategy.aggregate_evaluate(server_round, good)
        self.metrics[server_round] |= dict(metrics or {})
        return metrics

    def summary(self) -> None:
        self.strategy.summary()

    def state_dict(self) -> State:
        """What a killed run needs to go on after its last round."""
        assert self.current is not None
        return {
            "weights": dict(self.current.to_torch_state_dict()),
            "strategy": strategy_state(self.strategy),
            "cells": self.cells,
            "clients_by_round": self.clients_by_round,
            "refused": [vars(refusal) for refusal in self.refused],
        }

    def load_state_dict(self, state: State) -> None:
        self.current = ArrayRecord(state["weights"])
        load_strategy_state(self.strategy, state["strategy"])
        self.cells, self.clients_by_round = state["cells"], state["clients_by_round"]
        self.refused = [Refusal(**refusal) for refusal in state["refused"]]
        self.done = max(self.clients_by_round)


def _by_node(replies: Iterable[Message]) -> list[Message]:
    return sorted(replies, key=lambda reply: reply.metadata.src_node_id)


class _Wide(Array):
    """An array of a reply as Flower's means take it: in float64."""

    def numpy(self) -> np.ndarray:
        return super().numpy().astype(np.float64)
