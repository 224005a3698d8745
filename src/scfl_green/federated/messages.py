"""Flower's messages as bytes, and how a site's exception becomes one."""

import re
import sys

from flwr.app import ArrayRecord, Error, Message, RecordDict
from flwr.common import serde
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import Message as ProtoMessage

CLASS_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{,63}")


def reason_of(error: Error) -> str:
    """Why a site has failed, if it tells the name of a class, and nothing else."""
    return error.reason if CLASS_NAME.fullmatch(error.reason or "") else f"error {error.code}"


def failure(message: Message, error: BaseException) -> Message:
    """The reply to a message that a site's exception has ended: its class name alone."""
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, _class_name(error)), reply_to=message)


def _class_name(error: BaseException) -> str:
    """The name of the error's class, or of the nearest base that a module defines: the name of a class created at run
    time may contain anything."""
    for base in type(error).__mro__:
        defined = getattr(sys.modules.get(str(base.__module__)), base.__name__, None) is base
        if defined and CLASS_NAME.fullmatch(base.__name__):
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


def unpacked(wire: bytes) -> Message:
    """Undo ``packed``."""
    return serde.message_from_proto(ProtoMessage.FromString(wire))
