"""One message of the server, and the reply to it."""

import logging
import time
from collections.abc import Callable

import httpx
from flwr.app import Message, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    inflate_object_from_contents,
    pull_objects,
    push_objects,
)
from flwr.supernode.fleet_http_client import FleetHttpClient

from scfl_green.sites.envelope import opened, sealed

PUSHES = 5
LOG = logging.getLogger(__name__)


class Exchange:
    """Fetches messages of a node, has them answered, and sends the replies.

    What a run asks again, since the answer was lost, gets the same answer, without the work for it.
    """

    def __init__(self, client: FleetHttpClient, node: Node, answer: Callable[[Message, int], Message]) -> None:
        self._client, self._node, self._answer = client, node, answer
        self._last: tuple[tuple[int, str], RecordDict] | None = None

    def one(self) -> bool:
        """Whether there was a message. One whose run is over, or whose parts are gone, is dropped."""
        told = self._client.PullMessages(PullMessagesRequest(node=self._node))
        if not told.messages_list:
            return False
        message = message_from_proto(told.messages_list[0])
        try:
            contents = self._contents(message, told.message_object_trees[0])
            began = time.monotonic()
            reply = self._reply(message, contents)
            self._send(reply, time.monotonic() - began)
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.FORBIDDEN:
                raise
            LOG.info("the run that a message belonged to is over: dropped")
        except (ObjectPullError, ObjectPushError) as error:
            LOG.warning("a message was dropped: %s", error)
        return True

    def _contents(self, message: Message, tree: ObjectTree) -> dict[str, bytes]:
        run_id = message.metadata.run_id
        pull = make_pull_object_fn_protobuf(self._client.PullObject, self._node, run_id)
        # The server may still be sending it, for which Flower waits a second and more.
        contents = pull_objects([one.object_id for one in iterate_object_tree(tree)], pull, initial_backoff=0.1)
        of = message.metadata.message_id
        self._client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=self._node, run_id=run_id, message_object_id=of)
        )
        return contents

    def _reply(self, message: Message, contents: dict[str, bytes]) -> Message:
        size = sum(map(len, contents.values()))
        try:
            sent = inflate_object_from_contents(message.metadata.message_id, contents)
            if not isinstance(sent, Message):
                raise TypeError(f"a {type(sent).__name__} is no message")
            asked = message.metadata.run_id, sent.content.object_id
            if self._last is None or self._last[0] != asked:
                reply = self._answer(make_message(message.metadata, content=opened(sent.content)), size)
                if reply.has_error():
                    return reply
                self._last = asked, sealed(reply.content)
            return Message(self._last[1], reply_to=message)
        except Exception as error:
            from scfl_green.federated.messages import failure  # imports torch, as whoever answers has done

            LOG.exception("a message could not be answered")
            return failure(message, error)

    def _send(self, reply: Message, seconds: float) -> None:
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            tree, objects = get_object_tree(reply), get_all_nested_objects(reply)
            request = PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[tree],
                clientapp_runtime_list=[seconds],
            )
            for left in reversed(range(PUSHES)):
                told = self._client.PushMessages(request)
                run_id = reply.metadata.run_id
                push = make_push_object_fn_protobuf(self._client.PushObject, self._node, run_id, told.session_id)
                try:
                    return push_objects(objects, push, object_ids_to_push=set(told.objects_to_push))
                except ObjectPushError:  # of a part that arrived although its receipt did not: the rest is missing
                    if not left:
                        raise
