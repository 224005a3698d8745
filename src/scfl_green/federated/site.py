"""What a site keeps between messages: the weights that it holds, and what its codes have left out."""

from collections.abc import Callable, Mapping
from weakref import WeakValueDictionary

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict

from scfl_green.federated.codec import Codec, decode, encode
from scfl_green.federated.once import BASE, MISSING, NAME, name_of, numpy_of
from scfl_green.training.hooks import State

# The sites of a simulation share what all of them hold.
_HELD: WeakValueDictionary[str, ArrayRecord] = WeakValueDictionary()
# In the context's state.
WEIGHTS, LEFT, HASH = "weights", "left-out", "weights-hash"


class HoldWeights:
    """A mod of Flower's ClientApp, the site's side of ``WeightsOnce``: keeps the weights of each message in the site's
    state, and puts them into a message that only names them. A site that holds none holds the ``untrained`` ones.

    With a ``codec``, it decodes what it gets and codes the weights that it has trained; what a code leaves out is added
    to the next (error feedback: Seide et al. 2014, Interspeech, "1-Bit Stochastic Gradient Descent").
    """

    def __init__(self, codec: Codec | None = None, seed: int = 0, untrained: ArrayRecord | None = None) -> None:
        self.codec, self.seed, self.untrained = codec, seed, untrained

    def __call__(self, message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
        name = message.content["config"].get(NAME)
        if name is None:
            return call_next(message, context)
        if HASH not in context.state and self.untrained is not None:
            hold(context, name_of(self.untrained), self.untrained)
        weights = self._weights(message, context, str(name))
        if weights is None:
            return Message(RecordDict({"config": ConfigRecord({MISSING: name})}), reply_to=message)
        hold(context, str(name), weights)
        message.content["arrays"] = weights
        reply = call_next(message, context)
        if self.codec and message.metadata.message_type == MessageType.TRAIN and reply.has_content():
            round_number = int(message.content["config"].get("server-round", 0))
            rng = np.random.default_rng([self.seed, round_number, 1 + context.node_id])
            reply.content["arrays"] = self._code(reply.content["arrays"], weights, context, rng)
        return reply

    def _weights(self, message: Message, context: Context, name: str) -> ArrayRecord | None:
        """The weights that the message is about; None if the site lacks them, or what their code is based on."""
        holds, sent = context.state.get(HASH, {}).get(NAME), message.content.array_records.get("arrays")
        if sent is None:
            return context.state[WEIGHTS] if holds == name else None
        base = message.content["config"].get(BASE)
        if base is None:
            return sent
        if self.codec is None or holds != base:
            return None
        decoded = decode(self.codec, sent, numpy_of(context.state[WEIGHTS]))
        weights = ArrayRecord({key: Array(value) for key, value in decoded.items()})
        return weights if name_of(weights) == name else None

    def _code(self, trained: ArrayRecord, base: ArrayRecord, context: Context, rng: np.random.Generator) -> ArrayRecord:
        """The code of trained weights and of what earlier codes left out, where that still fits."""
        assert self.codec is not None
        wanted, given = numpy_of(trained), numpy_of(base)
        for name, left in numpy_of(context.state.get(LEFT, ArrayRecord())).items():
            if name in wanted and wanted[name].shape == left.shape:
                wanted[name] = wanted[name] + left
        coded, decoded = encode(self.codec, wanted, given, rng)
        left_out = {name: wanted[name] - value for name, value in decoded.items() if value.ndim > 1}
        context.state[LEFT] = ArrayRecord({name: Array(value) for name, value in left_out.items()})
        return coded


def site_state(context: Context) -> State:
    """What a site keeps, for the checkpoint of a simulation; its weights are the server's business, too."""
    if HASH not in context.state:
        return {}
    left = dict(context.state[LEFT].to_torch_state_dict()) if LEFT in context.state else {}
    return {"hash": context.state[HASH][NAME], "left": left}


def load_site_state(context: Context, state: State, weights: Mapping[str, ArrayRecord]) -> None:
    """Restore a site from its state and the ``weights`` by hash; without these, it holds nothing."""
    if state and state["hash"] in weights:
        hold(context, state["hash"], weights[state["hash"]])
        context.state[LEFT] = ArrayRecord(state["left"])


def hold(context: Context, name: str, weights: ArrayRecord) -> None:
    """Keep weights in a site's state."""
    context.state[WEIGHTS] = _HELD.setdefault(name, weights)
    context.state[HASH] = ConfigRecord({NAME: name})
