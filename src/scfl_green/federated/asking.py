"""A question and its answer, as the content of messages."""

import logging

from flwr.app import ConfigRecord, Message, RecordDict

from scfl_green.data.wire import Arrays
from scfl_green.federated.grid import ROUND
from scfl_green.federated.once import numpy_of, record_of

LOG = logging.getLogger(__name__)


def answer_of(reply: Message) -> Arrays | None:
    """What a site has answered; None for an error, and for what is no answer."""
    if reply.has_error() or "answer" not in reply.content.array_records:
        return None
    try:
        return numpy_of(reply.content["answer"])
    except Exception as error:  # whatever a site may have sent
        LOG.warning("an answer that cannot be read (%s)", type(error).__name__)
        return None


def content_of(question: Arrays, round_number: int = 0) -> RecordDict:
    config = ConfigRecord({ROUND: round_number} if round_number else {})
    return RecordDict({"question": record_of(question), "config": config})
