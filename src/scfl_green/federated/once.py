"""Weights travel once, and coded: a message names those that its site already holds, or tells how they have changed.

The weights that a site validates after a round are those that it trains from in the next. Both sides always hold the
same, decoded weights, so that errors of a code do not add up.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from scfl_green.federated.codec import Codec, decode, encode
from scfl_green.training.hooks import State

# In a message's configuration: the hash of the weights that its site is to hold, and of those that a code is based on.
NAME, BASE = "weights-sha256", "base-sha256"
# In the reply of a site that does not hold what was named.
MISSING = "missing-sha256"


@dataclass(frozen=True)
class Held:
    """The hashes of the weights that a site holds, and of those that they stand for: the same without a codec."""

    name: str
    target: str


class WeightsOnce(Grid):
    """Wraps a Grid whose clients have the mod ``HoldWeights``: leaves out the weights that a site already holds, and
    with a ``codec`` sends changes in both directions.

    ``known`` are weights that sites hold to begin with: untrained ones, which they draw from the seed. A site that
    proves not to hold them, because it is new or was restarted, gets them whole.
    """

    def __init__(self, grid: Grid, codec: Codec | None = None, seed: int = 0, known: ArrayRecord | None = None) -> None:
        self.grid, self.codec, self.seed = grid, codec, seed
        # By node, of the last message that it replied to.
        self.held: dict[int, Held] = {}
        # By hash, for changes; without a codec, none are kept.
        self.arrays: dict[str, ArrayRecord] = {}
        # Bytes that messages so far would have had more if all weights had travelled whole.
        self.spared = 0
        if known is not None:
            name = name_of(known)
            self.held, self.arrays = dict.fromkeys(grid.get_node_ids(), Held(name, name)), {name: known}
        self._coded: dict[tuple[str, str], tuple[str, ArrayRecord]] = {}

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
        # Until it has replied, a site counts as holding nothing.
        before = {node: self.held.pop(node, None) for node in names}
        sent, given = [], dict[int, Held]()
        for message in messages:
            node = message.metadata.dst_node_id
            if node in names:
                message, given[node] = self._shortened(message, names[node], before[node])
            sent.append(message)
        for reply in self.grid.send_and_receive(sent, timeout=timeout):
            node = reply.metadata.src_node_id
            if node in given and reply.has_content() and "config" not in reply.content:
                self.held[node] = given[node]
                self._decode(reply, given[node].name)
            yield reply
        used = {held.name for held in self.held.values()}
        self.arrays = {name: arrays for name, arrays in self.arrays.items() if name in used}
        self._coded.clear()

    def _shortened(self, message: Message, name: str, held: Held | None) -> tuple[Message, Held]:
        """The message with its weights named, and without them, or with their change alone, if the site holds some."""
        to, content = message.metadata, RecordDict({**message.content})
        arrays, config = message.content["arrays"], {**message.content["config"]}
        if held and held.target == name:
            given = held
            del content["arrays"]
        elif self.codec and held and _alike(arrays, base := self.arrays[held.name]):
            key, round_number = (held.name, name), int(config.get("server-round", 0))
            if key not in self._coded:
                self._coded[key] = self._code(arrays, base, round_number)
            changed, content["arrays"] = self._coded[key]
            given, config[BASE] = Held(changed, name), held.name
        else:
            given = Held(name, name)
            if self.codec:
                self.arrays[name] = arrays
        self.spared += _size(arrays) - _size(content.array_records.get("arrays", {}))
        content["config"] = ConfigRecord({**config, NAME: given.name})
        return Message(content, dst_node_id=to.dst_node_id, message_type=to.message_type, group_id=to.group_id), given

    def _code(self, arrays: ArrayRecord, base: ArrayRecord, round_number: int) -> tuple[str, ArrayRecord]:
        """The hash of the weights that a code stands for, which are kept, and the code."""
        assert self.codec is not None
        rng = np.random.default_rng([self.seed, round_number])
        coded, stands_for = encode(self.codec, numpy_of(arrays), numpy_of(base), rng)
        decoded = record_of(stands_for)
        self.arrays[name := name_of(decoded)] = decoded
        return name, coded

    def _decode(self, reply: Message, base: str) -> None:
        """Replace a change by the weights; a code that stands for none is left to the checks of replies."""
        if self.codec and "arrays" in reply.content:
            code = reply.content["arrays"]
            try:
                weights = decode(self.codec, code, numpy_of(self.arrays[base]))
            except Exception as error:  # whatever a site may have sent
                reply.content["arrays"] = ArrayRecord({f"no code of weights: {error}": Array(np.zeros(0))})
            else:
                reply.content["arrays"] = record_of(weights)
                self.spared += _size(reply.content["arrays"]) - _size(code)

    def state_dict(self) -> State:
        """What the sites hold, and in a simulation the sites' own state."""
        arrays = {name: dict(arrays.to_torch_state_dict()) for name, arrays in self.arrays.items()}
        held = {node: (held.name, held.target) for node, held in self.held.items()}
        return {"held": held, "arrays": arrays, "sites": getattr(self.grid, "state_dict", dict)()}

    def load_state_dict(self, state: State) -> None:
        self.held = {node: Held(*names) for node, names in state["held"].items()}
        self.arrays = {name: ArrayRecord(arrays) for name, arrays in state["arrays"].items()}

    def _unsupported(self, *args: object, **kwargs: object) -> NoReturn:
        raise NotImplementedError("use send_and_receive")

    push_messages = pull_messages = create_message = set_run = _unsupported
    run = property(_unsupported)


def _names(messages: Sequence[Message]) -> dict[int, str]:
    """The hash of the weights for each node whose message has some. Most messages share one record."""
    hashes: dict[int, str] = {}
    names = {}
    for message in messages:
        arrays = message.content.array_records.get("arrays")
        if arrays is not None:
            if id(arrays) not in hashes:
                hashes[id(arrays)] = name_of(arrays)
            names[message.metadata.dst_node_id] = hashes[id(arrays)]
    return names


def name_of(arrays: ArrayRecord) -> str:
    """The hash of weights: of their names, shapes, types and values."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(name.encode())
        digest.update(array.data)
    return digest.hexdigest()


def numpy_of(arrays: ArrayRecord) -> dict[str, np.ndarray]:
    """The values of a record by name."""
    return {name: array.numpy() for name, array in arrays.items()}


def record_of(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Values by name as a record."""
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def _size(arrays: Mapping[str, Array]) -> int:
    return sum(len(array.data) for array in arrays.values())


def _alike(arrays: ArrayRecord, base: ArrayRecord) -> bool:
    """Whether weights have the same names and shapes."""
    return [(n, tuple(a.shape)) for n, a in arrays.items()] == [(n, tuple(a.shape)) for n, a in base.items()]
