"""Real Flower messages to the sites of a federation: what every transport accounts for, and the one in this process."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NoReturn

from flwr.app import ArrayRecord, Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from scfl_green.energy.ledger import CALIBRATE, FIT, MESSAGES, PREPARE, TEST, TRACKING, VALIDATE, Key
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.federated.messages import failure, packed, unpacked
from scfl_green.federated.state import load_site_state, site_state
from scfl_green.training.hooks import State
from scfl_green.training.survey import MOMENTS

# Told of the round, of how many of its clients have trained, and of how many there are.
Trained = Callable[[int, int, int], None]
LOG = logging.getLogger(__name__)
# The ledger's phase for the traffic of each message type; that of all others is ``PREPARE``.
QUERY = "query."
PHASES = {
    "train": FIT,
    "evaluate": VALIDATE,
    f"{QUERY}{CALIBRATE}": CALIBRATE,
    f"{QUERY}{TEST}": TEST,
    f"{QUERY}{MOMENTS}": FIT,
}
# In the configuration of messages: the number of the round, 0 before and after training.
ROUND = "server-round"
# In the configuration of every message about weights: the hash of what was agreed before training.
AGREED = "agreed-sha256"


class SitesGrid(Grid):
    """A Grid whose nodes are sites, numbered from 1 in the order of ``clients``, their names: the accountant of every
    transport.

    The size of each message, and the work of packing it, go to the meter's ledger by round and client; replies come in
    order of node id. Every message about weights has the hash of what was ``agreed``.
    """

    def __init__(
        self, clients: Sequence[str], meter: EnergyMeter, trained: Trained | None = None, agreed: str = ""
    ) -> None:
        self.meter, self.trained, self.agreed = meter, trained, agreed
        self.clients = dict(enumerate(clients, start=1))

    def get_node_ids(self) -> Iterable[int]:
        return list(self.clients)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        asked = sorted(messages, key=lambda m: m.metadata.dst_node_id)
        for message in asked:
            message.content["config"][AGREED] = self.agreed
        for message, (down, up) in zip(asked, self._replies(asked, timeout), strict=True):
            work = self.site(message)
            traffic = _phase(message), *work[1:]
            self.meter.sent(traffic, down=down)
            if up is not None:
                self.meter.sent(traffic, up=len(up))
                with self.meter.phase(*work):
                    reply = unpacked(up)
                yield reply

    def site(self, message: Message) -> Key:
        """What the work on a message is charged to: the phase, the round and the client."""
        return work_of(message, self.clients[message.metadata.dst_node_id])

    def _replies(self, messages: Sequence[Message], timeout: float | None) -> Iterator[tuple[int, bytes | None]]:
        """For each message, its size on the network and the reply, None if none came in time."""
        raise NotImplementedError

    def _tell(self, message: Message, done: int, of: int) -> None:
        if self.trained is not None and message.metadata.message_type == MessageType.TRAIN:
            with self.meter.phase(TRACKING):
                self.trained(int(message.content["config"][ROUND]), done, of)

    def state_dict(self) -> dict[int, State]:
        """The state of the sites, where this process keeps it for them."""
        return {}

    def load_state_dict(self, state: Mapping[int, State], weights: Mapping[str, ArrayRecord]) -> None:
        """Restore the sites of a killed run, where this process keeps their state."""

    def close(self) -> None:
        """Stop what the transport has started."""

    def _unsupported(self, *args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError("use send_and_receive")

    push_messages = pull_messages = create_message = set_run = _unsupported
    run = property(_unsupported)


class LocalGrid(SitesGrid):
    """The sites are in this process, and answer in turn.

    Every message is serialised and parsed, as on a network. Of a client's exception the server gets only the class
    name, since its text may name files and patients; the text goes to the log of this process. A user's mistake
    (InputError) ends the run.
    """

    def __init__(
        self,
        client_app: ClientApp,
        clients: Sequence[str],
        meter: EnergyMeter,
        trained: Trained | None = None,
        agreed: str = "",
    ) -> None:
        super().__init__(clients, meter, trained, agreed)
        self.client_app = client_app
        self.contexts = {
            node: Context(0, node, {"partition-id": node - 1, "num-partitions": len(clients)}, RecordDict(), {})
            for node in self.clients
        }
        # A Message takes its sender from this class, which Flower's own runtimes set for a process.
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 0

    def _replies(self, messages: Sequence[Message], timeout: float | None) -> Iterator[tuple[int, bytes | None]]:
        for done, message in enumerate(messages, start=1):
            with self.meter.phase(*self.site(message)):
                request = packed(message)
                reply = self.answer(request)
            self._tell(message, done, len(messages))
            yield len(request), reply

    def answer(self, request: bytes) -> bytes:
        """The reply of the addressed client; both messages serialised."""
        message = unpacked(request)
        node = message.metadata.dst_node_id
        try:
            return packed(self.client_app(message, self.contexts[node]))
        except InputError:
            raise
        except Exception as error:
            LOG.exception("client %s", self.clients[node])
            return packed(failure(message, error))

    def state_dict(self) -> dict[int, State]:
        """The state of the sites, which a simulation keeps for them."""
        return {node: site_state(context) for node, context in self.contexts.items()}

    def load_state_dict(self, state: Mapping[int, State], weights: Mapping[str, ArrayRecord]) -> None:
        """Restore the sites of a killed run, which would have gone on in a real federation."""
        for node, of_site in state.items():
            load_site_state(self.contexts[node], of_site, weights)


def _phase(message: Message) -> str:
    return PHASES.get(message.metadata.message_type, PREPARE)


def work_of(message: Message, client: str) -> Key:
    """What the work of a client on a message is charged to: the phase, the round and the client."""
    phase, round_number = _phase(message), int(message.content["config"].get(ROUND, 0))
    # The messages of rounds are part of training.
    return MESSAGES if phase in (FIT, VALIDATE) else phase, round_number, client
