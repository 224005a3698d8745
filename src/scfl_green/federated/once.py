"""Weights travel once: a message names those that its site already holds.

The weights that a site validates after a round are those that it trains from in the next.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NoReturn
from weakref import WeakValueDictionary

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid

# In a message's configuration: the hash of its weights, which are left out if the site holds them.
NAME = "weights-sha256"
# In the reply of a site that does not hold them.
MISSING = "missing-sha256"


class WeightsOnce(Grid):
    """Wraps a Grid whose clients have the mod ``hold_weights``: leaves out the weights that a site already holds.

    A site that proves not to hold them, because it was restarted, gets them whole.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        # By node, the hash of the weights in the last message that it replied to.
        self.held: dict[int, str] = {}

    def get_node_ids(self) -> Iterable[int]:
        return self.grid.get_node_ids()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        asked = {message.metadata.dst_node_id: message for message in messages}
        missing = []
        for reply in self._exchange([*asked.values()], timeout):
            if reply.has_content() and MISSING in reply.content.config_records.get("config", {}):
                missing.append(asked[reply.metadata.src_node_id])
            else:
                yield reply
        yield from self._exchange(missing, timeout)

    def _exchange(self, messages: Sequence[Message], timeout: float | None) -> Iterator[Message]:
        names = _names(messages)
        sent = [self._shortened(message, names[message.metadata.dst_node_id]) for message in messages]
        for reply in self.grid.send_and_receive(sent, timeout=timeout):
            node = reply.metadata.src_node_id
            if (name := names[node]) and reply.has_content() and "config" not in reply.content:
                self.held[node] = name
            yield reply

    def _shortened(self, message: Message, name: str) -> Message:
        """The message with its weights named, and without them if the site holds them. Until the site has replied, it
        counts as holding none."""
        if not name:
            return message
        to, content = message.metadata, RecordDict({**message.content})
        content["config"] = ConfigRecord({**message.content["config"], NAME: name})
        if self.held.pop(to.dst_node_id, None) == name:
            del content["arrays"]
        return Message(content, dst_node_id=to.dst_node_id, message_type=to.message_type, group_id=to.group_id)

    def _unsupported(self, *args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError("use send_and_receive")

    push_messages = pull_messages = create_message = set_run = _unsupported
    run = property(_unsupported)


def _names(messages: Sequence[Message]) -> dict[int, str]:
    """The hash of the weights for each node; empty if a message has none. Most messages share one record."""
    hashes: dict[int, str] = {}
    names = {}
    for message in messages:
        arrays = message.content.array_records.get("arrays")
        if arrays is not None and id(arrays) not in hashes:
            hashes[id(arrays)] = name_of(arrays)
        names[message.metadata.dst_node_id] = hashes.get(id(arrays), "")
    return names


def name_of(arrays: ArrayRecord) -> str:
    """The hash of weights: of their names, shapes, types and values."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(name.encode())
        digest.update(array.data)
    return digest.hexdigest()


# The sites of a simulation share what all of them hold.
_HELD: WeakValueDictionary[str, ArrayRecord] = WeakValueDictionary()


def hold(context: Context, name: str, arrays: ArrayRecord) -> None:
    """Keep weights in a site's state."""
    context.state["held"] = _HELD.setdefault(name, arrays)
    context.state["held-config"] = ConfigRecord({NAME: name})


def hold_weights(message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
    """A mod of Flower's ClientApp: keeps the weights of each message in the site's state, and puts them into a message
    that only names them."""
    name = message.content["config"].get(NAME)
    if name is None:
        return call_next(message, context)
    if "arrays" in message.content:
        hold(context, str(name), message.content["arrays"])
    elif context.state.get("held-config", {}).get(NAME) != name:
        return Message(RecordDict({"config": ConfigRecord({MISSING: name})}), reply_to=message)
    message.content["arrays"] = context.state["held"]
    return call_next(message, context)
