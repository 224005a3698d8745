"""Contents of messages in few parts: Flower sends every record, array and piece of an array by a call of its own.

A model of seven arrays took 68 calls to a site and back, most of the time of a round; in an envelope it takes 18.
"""

from flwr.app import ConfigRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

# A part must go through a slow line before the other side gives it up.
PART_BYTES = 4 * 2**20


def sealed(content: RecordDict) -> RecordDict:
    """The content as records of at most ``PART_BYTES`` each. The same content makes the same parts."""
    packed = recorddict_to_proto(content).SerializeToString(deterministic=True)
    cuts = range(0, max(len(packed), 1), PART_BYTES)
    return RecordDict({f"{cut:015d}": ConfigRecord({"part": packed[cut : cut + PART_BYTES]}) for cut in cuts})


def opened(content: RecordDict) -> RecordDict:
    """What was sealed. Any exception, if this is no sealed content."""
    parts = [content.config_records[name]["part"] for name in sorted(content)]
    packed = b"".join(part for part in parts if isinstance(part, bytes))
    return recorddict_from_proto(ProtoRecordDict.FromString(packed))
