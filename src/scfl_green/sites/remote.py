"""The grid of sites on other machines."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence

from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid

from scfl_green.energy.ledger import BETWEEN
from scfl_green.energy.meter import EnergyMeter
from scfl_green.federated.grid import SitesGrid, Trained
from scfl_green.federated.messages import packed
from scfl_green.sites.answering import USED, received

LOG = logging.getLogger(__name__)


class RemoteGrid(SitesGrid):
    """The grid of sites on other machines, behind Flower's own ``link``; ``nodes`` are its ids by the sites' names."""

    def __init__(
        self, link: Grid, nodes: Mapping[str, int], meter: EnergyMeter, trained: Trained | None, agreed: str
    ) -> None:
        super().__init__([*nodes], meter, trained, agreed)
        self.link = link
        self.nodes = dict(enumerate(nodes.values(), start=1))
        self.numbers = {node: number for number, node in self.nodes.items()}

    def _replies(self, messages: Sequence[Message], timeout: float | None) -> Iterator[tuple[int, bytes | None]]:
        sizes, sent, by_number = [], [], {m.metadata.dst_node_id: m for m in messages}
        for message in messages:
            with self.meter.phase(*self.site(message)):
                sizes.append(len(packed(message)))
            of, node = message.metadata, self.nodes[message.metadata.dst_node_id]
            sent.append(Message(message.content, dst_node_id=node, message_type=of.message_type, group_id=of.group_id))
        replies: dict[int, bytes] = {}
        with self.meter.phase(BETWEEN):
            for reply in self.link.send_and_receive(sent, timeout=timeout):
                number = self.numbers[reply.metadata.src_node_id]
                self._account(reply, self.clients[number])
                reply.metadata.__dict__["_src_node_id"] = number
                with self.meter.phase(*self.site(by_number[number])):
                    replies[number] = packed(reply)
                self._tell(by_number[number], len(replies), len(messages))
        for size, number in zip(sizes, by_number, strict=True):
            yield size, replies.pop(number, None)

    def _account(self, reply: Message, name: str) -> None:
        """Take from a reply what its site has used, into the ledger."""
        if not reply.has_content() or not isinstance(used := reply.content.get(USED), ConfigRecord):
            return
        del reply.content[USED]
        try:
            self.meter.add(received(json.loads(str(used["rows"])), name))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            LOG.warning("%s: its energy is not counted: %s", name, error)
