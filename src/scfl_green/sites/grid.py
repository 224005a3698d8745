"""LinkGrid: a Grid whose nodes are the sites behind a SuperLink."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import httpx
from flwr.app import Error, Message
from flwr.app.message import make_message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_from_proto, run_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullTaskInputRequest, PushTaskOutputRequest
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from scfl_green.errors import InputError
from scfl_green.sites.outstanding import Arriving, Asked, Outstanding
from scfl_green.sites.patience import Patience, pause_seconds

LONGEST_PAUSE_SECONDS = 1.0
# A SuperLink that was away for longer has given this run up.
WAIT_SECONDS = 60.0
PUSHES = 5
# A site is back that soon after a kill or an outage of the network, or else the round goes on without it.
RETURN_SECONDS, MOST_TIMES = 10.0, 3


class LinkGrid(HttpGrid):
    """A Grid for a task's token, which stands a SuperLink's restart and yields each reply as it arrives. ``registered``
    tells of all sites, where ``get_nodes`` leaves out those that are not connected.

    InputError if the SuperLink has been away for more than a minute, or has given up the run.
    """

    def __init__(
        self, address: str, authority: bytes, token: str, registered: Callable[[], Sequence[NodeInfo]]
    ) -> None:
        self.registered = registered
        super().__init__(address, root_certificates=authority, token=token)
        # Before the first call: Flower's own ends the process when it is refused.
        self._retry_invoker = Patience(address, WAIT_SECONDS)
        with self._refusals():
            task = self._runtime_client.PullTaskInput(PullTaskInputRequest())
        self.set_run(run_from_proto(task.run))
        # A Message takes its sender from this class, which Flower's own runtimes set for a process.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = (
            task.task_id,
            self.run.run_id,
            SUPERLINK_NODE_ID,
        )

    def finish(self, status: str) -> None:
        """Tell the SuperLink how the run ended: one of Flower's SubStatus."""
        with self._refusals():
            self._runtime_client.PushTaskOutput(PushTaskOutputRequest(sub_status=status))
        self.close()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Yield the reply to each message as it arrives, until ``timeout`` seconds have passed.

        A reply's ``src_node_id`` is the site that was asked, whatever the reply says, of an error too. A site that was
        away and is back within ten seconds is asked again, twice at most. Messages that nobody has answered ten minutes
        after the timeout are forgotten.
        """
        began = heard = time.monotonic()
        with self._refusals():
            open_ = Outstanding([Asked.first(message, timeout) for message in messages])
            del messages
            while open_:
                looked = time.monotonic()
                for reply in self._step(open_):
                    heard = time.monotonic()
                    yield reply
                now = time.monotonic()
                left = float("inf") if timeout is None else began + timeout - now
                if left <= 0:
                    return
                looking = now - looked if heard < looked else 0.0  # else it was our caller's time, too
                if open_:
                    time.sleep(min(pause_seconds(now - heard, looking, LONGEST_PAUSE_SECONDS), left))

    def _step(self, open_: Outstanding) -> Iterator[Message]:
        """Send what is to be sent, and yield what has come."""
        if open_.unsent:
            for asked, sent in zip(open_.unsent, self._pushed([one.message for one in open_.unsent]), strict=True):
                if sent:
                    open_.waiting[sent] = asked
                else:
                    yield Message(Error(ErrorCode.NODE_UNAVAILABLE, "no longer registered"), reply_to=asked.message)
            open_.unsent = []
        for asked, reply in self._replies(open_):
            if reply.has_error() and reply.error.code == ErrorCode.NODE_UNAVAILABLE and asked.times < MOST_TIMES:
                open_.away.append((asked, reply, time.monotonic()))
            else:
                yield reply
        yield from self._returned(open_)

    def _returned(self, open_: Outstanding) -> Iterator[Message]:
        """Have sites that are back asked again; yield the errors of those that do not come back."""
        online = set(self.get_node_ids()) if open_.away else set()
        away, open_.away = open_.away, []
        for asked, error, since in away:
            if asked.message.metadata.dst_node_id in online:
                open_.unsent.append(asked.again())
            elif time.monotonic() - since > RETURN_SECONDS:
                yield error
            else:
                open_.away.append((asked, error, since))

    def _pushed(self, messages: list[Message]) -> list[str]:
        """The ids under which the SuperLink has taken messages; empty for a site that has left."""
        for _ in range(PUSHES):
            try:
                return list(self.push_messages(messages))
            except ObjectPushError:  # of a part that a SuperLink already had when it was killed: the rest is missing
                time.sleep(1)
        raise InputError(f"{self._addr}: the SuperLink does not keep what it is sent; see superlink.log")

    def _replies(self, open_: Outstanding) -> Iterator[tuple[Asked, Message]]:
        """Those that have come whole, and what they reply to."""
        expected = set(open_.waiting) - {one.metadata.reply_to_message_id for one in open_.arriving}
        if expected:
            told = self._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=expected))
            for proto, tree in zip(told.messages_list, told.message_object_trees, strict=True):
                open_.arriving.append(Arriving(message_from_proto(proto).metadata, tree))
        for one in list(open_.arriving):
            reply = self._whole(one)
            if reply is not None:
                open_.arriving.remove(one)
                asked = open_.waiting.pop(one.metadata.reply_to_message_id)
                # The SuperLink has made sure that only this site could reply; what a reply says of itself is not used.
                one.metadata.__dict__["_src_node_id"] = asked.message.metadata.dst_node_id
                yield asked, reply

    def _whole(self, one: Arriving) -> Message | None:
        """The reply if all its parts are here, an error if it cannot be had, or None."""
        for part in iterate_object_tree(one.tree):
            if part.object_id not in one.contents:
                request = PullObjectRequest(node=self.node, run_id=self.run.run_id, object_id=part.object_id)
                told = self._runtime_client.PullObject(request)
                if not told.object_found:
                    return make_message(one.metadata, error=Error(ErrorCode.REPLY_MESSAGE_UNAVAILABLE, "lost"))
                if not told.object_available:
                    return None
                one.contents[part.object_id] = told.object_content
        confirmed = ConfirmMessageReceivedRequest(
            node=self.node, run_id=self.run.run_id, message_object_id=one.metadata.message_id
        )
        self._runtime_client.ConfirmMessageReceived(confirmed)
        return one.reply()

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                raise
            given_up = "the SuperLink has given up this run, stopped or without news of it for a minute"
            raise InputError(f"{given_up}; the same command goes on from the last round") from None
