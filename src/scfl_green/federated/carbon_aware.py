"""FedAvg that trains where, and when, electricity is clean."""

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from scfl_green.bounds import Fraction, Weight
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError

# Equal to within the rounding of a sum.
SAME = 1e-9
# Hours that make sure of being within the hour that was waited for.
INSTANT = 1e-6
LOSS = "train/loss"


class CarbonAware(FedAvg):
    """FedAvg whose sites of a round are those of most utility per gram of CO2e.

    *Utility* of a site is the number of its training cells times their mean loss when it last trained: Oort's
    statistical utility (Lai et al. 2021, OSDI, "Oort: Efficient Federated Learning via Guided Participant Selection",
    section 4.2), which has the root mean square in place of the mean. *Grams* are in proportion to the carbon intensity
    of both ends, since every site gets and sends the same bytes, and the server does not know what training draws.

    *How many* sites train is the number of all sites times the cleanest site's intensity by the mean of all, but at
    least ``min_train_nodes``: where all are equally clean, all of them, and the strategy is FedAvg, to the bit.

    *Fairness*: a site trains whenever it would otherwise have trained in less than ``floor`` of the rounds so far (fair
    participation, as in FedZero: Wiesner et al. 2024, e-Energy), whatever it emits; in the first round, all sites do.

    *Waiting*: before a round, until the hour within the slack that is left (``slack_hours`` over all rounds) in which
    its utility costs fewest grams (Wiesner et al. 2021, Middleware, "Let's Wait Awhile"). Nobody sleeps: it is the
    clock of a simulation that runs on.

    Weights are validated at the sites that train from them next, which then need not get them again, and the last ones
    nowhere; with ``validate_everywhere``, all of them at all sites. Without ``begin``, it is FedAvg.
    """

    def __init__(
        self, floor: Fraction = 1 / 3, slack_hours: Weight = 0.0, validate_everywhere: bool = False, **fedavg: Any
    ) -> None:
        super().__init__(**fedavg)
        self.floor, self.slack_hours, self.validate_everywhere = floor, slack_hours, validate_everywhere
        self.begin(None, {}, 0)

    def begin(self, meter: EnergyMeter | None, clients: Mapping[int, str], rounds: int) -> None:
        """Begin a training: the meter knows intensity and time, ``clients`` are the names of nodes."""
        self.meter, self.clients, self.rounds = meter, clients, rounds
        # What checkpoints hold: rounds and utility by node, and the sites of the next round.
        self.trained: dict[int, np.int64] = {}
        self.utility: dict[int, np.float64] = {}
        self.chosen: list[np.int64] = []
        self.chosen_for = 0

    def check(self, min_clients: int | None, validation_decides: bool) -> None:
        """InputError for settings that leave no choice, or rounds that cannot be compared."""
        if self.fraction_train < 1:
            raise InputError(
                f"federation.strategy.fraction_train={self.fraction_train}: carbon_aware chooses; set it to 1"
            )
        if (min_clients or 0) > self.min_train_nodes:
            raise InputError(
                f"federation.min_clients={min_clients}: carbon_aware may ask as few as {self.min_train_nodes} sites; "
                "raise federation.strategy.min_train_nodes to as many"
            )
        if validation_decides and not self.validate_everywhere:
            raise InputError(
                "callbacks=carbon_budget compares rounds, which carbon_aware validates at different sites; set "
                "federation.strategy.validate_everywhere=true"
            )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return self._to_chosen(server_round, super().configure_train(server_round, arrays, config, grid))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        if server_round == self.rounds and not self.validate_everywhere:
            return []
        messages = [*super().configure_evaluate(server_round, arrays, config, grid)]
        # The next round's sites, so that nothing is sent before the hour that is waited for.
        chosen = self._to_chosen(server_round + 1, messages)
        return messages if self.validate_everywhere else chosen

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = [*replies]
        for reply in replies:
            node, metrics = reply.metadata.src_node_id, dict(*reply.content.metric_records.values())
            self.trained[node] = np.int64(self.trained.get(node, 0) + 1)
            # Private training tells no loss.
            self.utility[node] = np.float64(metrics[self.weighted_by_key] * abs(metrics.get(LOSS, 1.0)))
        return super().aggregate_train(server_round, replies)

    def _to_chosen(self, server_round: int, messages: Iterable[Message]) -> list[Message]:
        """The messages to the sites of a round; waits for them, if it is worth it."""
        messages = [*messages]
        if self.chosen_for != server_round:
            nodes = sorted(message.metadata.dst_node_id for message in messages)
            self.chosen = [np.int64(node) for node in self._choose(server_round, nodes)]
            self.chosen_for = server_round
        return [message for message in messages if message.metadata.dst_node_id in self.chosen]

    def _choose(self, server_round: int, nodes: Sequence[int]) -> Sequence[int]:
        if self.meter is None or not nodes:
            return nodes
        due = [node for node in nodes if self.trained.get(node, 0) < self.floor * server_round - SAME]
        intensity, plans = self.meter.intensity, []
        now = intensity.clock.now()
        for wait in self._waits(now) if server_round <= self.rounds else [0.0]:
            grams = {node: intensity.between(self.clients[node], now + wait) for node in nodes}
            plan = self._most_per_gram(grams, due)
            utility = sum(self.utility.get(node, 1.0) for node in plan)
            plans.append((sum(grams[node] for node in plan) / (utility or 1.0), wait, plan))
        best = min(plans, key=lambda one: one[:2])
        if best[0] < plans[0][0] * (1 - SAME):
            self.meter.wait(best[1])
            return best[2]
        return plans[0][2]

    def _waits(self, now: float) -> list[float]:
        """Hours to wait: none, or until one of the hours that begin within the slack that is left."""
        assert self.meter is not None
        intensity = self.meter.intensity
        left = max(0.0, self.slack_hours - intensity.clock.waited_hours)
        hours = range(int(now) + 1, int(now + left) + 1) if intensity.curves else ()
        return [0.0, *(hour - now + INSTANT for hour in hours if intensity.covered(hour))]

    def _most_per_gram(self, grams: Mapping[int, float], due: Sequence[int]) -> list[int]:
        """The sites that are due, and those of most utility per gram, as many as are to train."""
        mean = fmean(grams.values())
        share = min(grams.values()) / mean if mean else 1.0
        n = max(self.min_train_nodes, math.floor(len(grams) * share + SAME)) - len(due)

        def per_gram(node: int) -> float:
            return float(self.utility.get(node, 1.0)) / grams[node] if grams[node] else math.inf

        others = sorted((node for node in grams if node not in due), key=per_gram, reverse=True)
        return sorted([*due, *others[: max(n, 0)]])
