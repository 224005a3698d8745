"""LocalGrid: real Flower messages to a real ClientApp, in this process."""

import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NoReturn

from flwr.app import ArrayRecord, Context, Error, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import serde
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from scfl_green.energy.ledger import CALIBRATE, FIT, MESSAGES, PREPARE, TRACKING, VALIDATE, Key
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.federated.site import load_site_state, site_state
from scfl_green.training.hooks import State

# Told of the round, of how many of its clients have trained, and of how many there are.
Trained = Callable[[int, int, int], None]
LOG = logging.getLogger(__name__)
# The ledger's phase for the traffic of each message type.
PHASES = {"train": FIT, "evaluate": VALIDATE, "query": PREPARE, "query.calibrate": CALIBRATE}


class LocalGrid(Grid):
    """A Grid whose nodes are clients in this process, called in order of node id.

    Every message is serialised and parsed, as on a network; its size and this work go to the meter's ledger by round
    and client.
    Of a client's exception the server gets only the class name, since its text may name files and patients; the text
    goes to the log of this process. A user's mistake (InputError) ends the run.
    """

    def __init__(
        self, client_app: ClientApp, clients: list[str], meter: EnergyMeter, trained: Trained | None = None
    ) -> None:
        self.client_app, self.meter, self.trained = client_app, meter, trained
        self.clients = dict(enumerate(clients, start=1))
        self.contexts = {
            node: Context(0, node, {"partition-id": node - 1, "num-partitions": len(clients)}, RecordDict(), {})
            for node in self.clients
        }
        # A Message takes its sender from this class, which Flower's own runtimes set for a process.
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 0

    def get_node_ids(self) -> Iterable[int]:
        return list(self.clients)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        asked = sorted(messages, key=lambda m: m.metadata.dst_node_id)
        for message, (down, up) in zip(asked, self._replies(asked, timeout), strict=True):
            work = self.site(message)
            traffic = PHASES[message.metadata.message_type], *work[1:]
            self.meter.sent(traffic, down=down)
            if up is not None:
                self.meter.sent(traffic, up=len(up))
                with self.meter.phase(*work):
                    reply = _unpacked(up)
                yield reply

    def site(self, message: Message) -> Key:
        """What the work on a message is charged to: the phase, the round and the client."""
        round_number = int(message.content["config"].get("server-round", 0))
        # Other messages are part of training.
        phase = CALIBRATE if PHASES[message.metadata.message_type] == CALIBRATE else MESSAGES
        return phase, round_number, self.clients[message.metadata.dst_node_id]

    def _replies(self, messages: Sequence[Message], timeout: float | None) -> Iterator[tuple[int, bytes | None]]:
        """For each message, its size on the network and the reply, None if none came in time."""
        for done, message in enumerate(messages, start=1):
            with self.meter.phase(*self.site(message)):
                request = packed(message)
                reply = self.answer(request)
            self._tell(message, done, len(messages))
            yield len(request), reply

    def _tell(self, message: Message, done: int, of: int) -> None:
        if self.trained is not None and message.metadata.message_type == MessageType.TRAIN:
            with self.meter.phase(TRACKING):
                self.trained(int(message.content["config"]["server-round"]), done, of)

    def answer(self, request: bytes) -> bytes:
        """The reply of the addressed client; both messages serialised."""
        message = _unpacked(request)
        node = message.metadata.dst_node_id
        try:
            return packed(self.client_app(message, self.contexts[node]))
        except InputError:
            raise
        except Exception as error:
            LOG.exception("client %s", self.clients[node])
            failed = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, _class_name(error))
            return packed(Message(failed, reply_to=message))

    def state_dict(self) -> dict[int, State]:
        """The state of the sites, which a simulation keeps for them."""
        return {node: site_state(context) for node, context in self.contexts.items()}

    def load_state_dict(self, state: Mapping[int, State], weights: Mapping[str, ArrayRecord]) -> None:
        """Restore the sites of a killed run, which would have gone on in a real federation."""
        for node, of_site in state.items():
            load_site_state(self.contexts[node], of_site, weights)

    def close(self) -> None:
        """Nothing to close in this process."""

    def _unsupported(self, *args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError("LocalGrid has no SuperLink: use send_and_receive")

    push_messages = pull_messages = create_message = set_run = _unsupported
    run = property(_unsupported)


def _class_name(error: BaseException) -> str:
    """The name of the error's class, or of the nearest base that a module defines: the name of a class created at run
    time may contain anything."""
    for base in type(error).__mro__:
        defined = getattr(sys.modules.get(str(base.__module__)), base.__name__, None) is base
        if defined and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{,63}", base.__name__):
            return base.__name__
    return "Exception"


def packed(message: Message) -> bytes:
    """Serialise a message in place; Flower's ``message_to_proto`` copies every array half a dozen times."""
    if message.has_error():
        return serde.message_to_proto(message).SerializeToString()
    proto = ProtoMessage(metadata=serde.metadata_to_proto(message.metadata), content={})
    for key, record in message.content.items():
        if isinstance(record, ArrayRecord):
            arrays = proto.content.items.add(key=key).array_record
            arrays.SetInParent()
            for name, array in record.items():
                value = arrays.items.add(key=name).value
                value.dtype, value.stype, value.data = array.dtype, array.stype, array.data
                value.shape.extend(array.shape)
        else:
            proto.content.MergeFrom(serde.recorddict_to_proto(RecordDict({key: record})))
    return proto.SerializeToString()


def _unpacked(wire: bytes) -> Message:
    return serde.message_from_proto(ProtoMessage.FromString(wire))
