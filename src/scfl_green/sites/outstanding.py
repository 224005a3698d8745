"""What of one ``send_and_receive`` is not settled yet."""

from dataclasses import dataclass, field
from typing import Self

from flwr.app import Error, Message, Metadata
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from scfl_green.sites.envelope import opened, sealed

# Node authentication lets clocks differ by five minutes; a message must not be too old for a clock that is ahead.
CLOCKS_SECONDS = 600.0


@dataclass(frozen=True)
class Asked:
    """A message, and how many times it has been sent."""

    message: Message
    times: int = 1

    @classmethod
    def first(cls, message: Message, timeout: float | None) -> Self:
        """A message as it is sent: sealed, and with an end, so that no site does work that nobody waits for."""
        of = message.metadata
        ttl = of.ttl if timeout is None else min(of.ttl, timeout + CLOCKS_SECONDS)
        return cls(Message(sealed(message.content), of.dst_node_id, of.message_type, ttl=ttl, group_id=of.group_id))

    def again(self) -> "Asked":
        of = self.message.metadata
        message = Message(self.message.content, of.dst_node_id, of.message_type, ttl=of.ttl, group_id=of.group_id)
        return Asked(message, self.times + 1)


@dataclass
class Arriving:
    """A reply of which the SuperLink may not have all parts yet."""

    metadata: Metadata
    tree: ObjectTree
    contents: dict[str, bytes] = field(default_factory=dict)

    def reply(self) -> Message:
        """The message, once all of its contents are here; an error if a site has sent anything else."""
        try:
            made = inflate_object_from_contents(self.metadata.message_id, self.contents)
            if not isinstance(made, Message):
                raise TypeError(f"a {type(made).__name__} is no message")
            if made.has_error():
                return make_message(self.metadata, error=made.error)
            return make_message(self.metadata, content=opened(made.content))
        except Exception:  # whatever it may have been
            return make_message(self.metadata, error=Error(ErrorCode.REPLY_MESSAGE_UNAVAILABLE, "malformed"))


@dataclass
class Outstanding:
    """What of one send_and_receive is not settled: sent under an id, half arrived, or of a site that is away since."""

    unsent: list[Asked]
    waiting: dict[str, Asked] = field(default_factory=dict)
    arriving: list[Arriving] = field(default_factory=list)
    away: list[tuple[Asked, Message, float]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.unsent or self.waiting or self.away)
