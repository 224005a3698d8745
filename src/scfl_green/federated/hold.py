"""The site's side of weights that travel once, and coded."""

import zlib
from collections.abc import Callable

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict

from scfl_green.federated.codec import Codec, decode, encode
from scfl_green.federated.once import BASE, MISSING, NAME, name_of, numpy_of, record_of
from scfl_green.federated.site import Site
from scfl_green.federated.state import HASH, LEFT, WEIGHTS, hold


class HoldWeights:
    """A mod of Flower's ClientApp, the site's side of ``WeightsOnce``: keeps the weights of each message in the site's
    state, and puts them into a message that only names them. A site that holds none holds its ``untrained`` ones.

    With a codec of the site, it decodes what it gets and codes the weights that it has trained; what a code leaves out
    is added to the next (error feedback: Seide et al. 2014, Interspeech, "1-Bit Stochastic Gradient Descent").
    """

    def __init__(self, site_of: Callable[[Context], Site]) -> None:
        self.site_of = site_of

    def __call__(self, message: Message, context: Context, call_next: Callable[[Message, Context], Message]) -> Message:
        name = message.content["config"].get(NAME)
        if name is None:
            return call_next(message, context)
        site = self.site_of(context)
        if HASH not in context.state and site.untrained is not None:
            hold(context, name_of(site.untrained), site.untrained)
        weights = _weights(message, context, str(name), site.codec)
        if weights is None:
            return Message(RecordDict({"config": ConfigRecord({MISSING: name})}), reply_to=message)
        hold(context, str(name), weights)
        message.content["arrays"] = weights
        reply = call_next(message, context)
        if site.codec and message.metadata.message_type == MessageType.TRAIN and reply.has_content():
            round_number = int(message.content["config"].get("server-round", 0))
            rng = np.random.default_rng([site.seed, round_number, zlib.crc32(site.name.encode())])
            reply.content["arrays"] = _code(site.codec, reply.content["arrays"], weights, context, rng)
        return reply


def _weights(message: Message, context: Context, name: str, codec: Codec | None) -> ArrayRecord | None:
    """The weights that the message is about; None if the site lacks them, or what their code is based on."""
    holds, sent = context.state.get(HASH, {}).get(NAME), message.content.array_records.get("arrays")
    if sent is None:
        return context.state[WEIGHTS] if holds == name else None
    base = message.content["config"].get(BASE)
    if base is None:
        return sent
    if codec is None or holds != base:
        return None
    decoded = decode(codec, sent, numpy_of(context.state[WEIGHTS]))
    weights = record_of(decoded)
    return weights if name_of(weights) == name else None


def _code(
    codec: Codec, trained: ArrayRecord, base: ArrayRecord, context: Context, rng: np.random.Generator
) -> ArrayRecord:
    """The code of trained weights and of what earlier codes left out, where that still fits."""
    wanted, given = numpy_of(trained), numpy_of(base)
    for name, left in numpy_of(context.state.get(LEFT, ArrayRecord())).items():
        if name in wanted and wanted[name].shape == left.shape:
            wanted[name] = wanted[name] + left
    coded, decoded = encode(codec, wanted, given, rng)
    left_out = {name: wanted[name] - value for name, value in decoded.items() if value.ndim > 1}
    context.state[LEFT] = record_of(left_out)
    return coded
