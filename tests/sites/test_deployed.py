"""A deployed federation, and what befalls it: a real SuperLink, gateway, sites and runs as processes, over TLS."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_to_proto
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.superlink.grid import HttpGrid
from processes import Server, Site, until

from scfl_green.errors import BusyError, InputError
from scfl_green.sites.control import control
from scfl_green.sites.grid import LinkGrid
from scfl_green.sites.invitations import Invitation, records
from scfl_green.sites.keys import new_key, trusting
from scfl_green.sites.link import connected
from scfl_green.sites.membership import join, leave
from scfl_green.sites.node import serve
from scfl_green.sites.server import init
from scfl_green.sites.states import states

pytestmark = pytest.mark.deployed
TIMEOUT_SECONDS = 120.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("deployed") / "federation")
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def sites(server: Server) -> Iterator[dict[str, Site]]:
    sites = {name: Site(server, name) for name in ("north", "South.2")}
    yield sites
    for site in sites.values():
        assert site.stop() == 0


def asked(grid: LinkGrid, content: RecordDict | None = None, **config: object) -> dict[str, Message]:
    """What each connected site replied to the same message."""
    names = {node.node_id: node.name for node in grid.get_nodes()}
    content = content or RecordDict({"asked": ConfigRecord(config)})
    messages = [Message(content, dst_node_id=node, message_type="query") for node in names]
    replies = grid.send_and_receive(messages, timeout=TIMEOUT_SECONDS)
    return {names[reply.metadata.src_node_id]: reply for reply in replies}


def echoed(grid: LinkGrid, *names: str) -> bool:
    replies = asked(grid, word="hello")
    return set(replies) == set(names) and all(reply.content["asked"]["word"] == "hello" for reply in replies.values())


def test_messages_of_every_kind_come_back_equal(server: Server, sites: dict[str, Site]) -> None:
    values = np.random.default_rng(0).standard_normal(20 * 2**17)  # 20 MiB, in several parts
    arrays = {"x": values, "empty": np.empty((0, 3), np.float32), "half": values[:5].astype(np.float16)}
    content = RecordDict(
        {
            "arrays": ArrayRecord({name: Array(array) for name, array in arrays.items()}),
            "config": ConfigRecord({"text": "ü\n", "bytes": b"\0\xff", "many": [1, 2], "none": []}),
            "metrics": MetricRecord({"loss": 0.1, "n": 3}),
        }
    )
    with connected(server.settings) as grid:
        replies = asked(grid, content)
    assert set(replies) == set(sites)
    for reply in replies.values():
        for name, array in arrays.items():
            back = reply.content["arrays"][name].numpy()
            assert back.dtype == array.dtype
            np.testing.assert_array_equal(back, array)
        assert reply.content["config"] == content["config"]
        assert reply.content["metrics"] == content["metrics"]


def test_replies_come_as_they_arrive_and_not_after_the_timeout(server: Server, sites: dict[str, Site]) -> None:
    with connected(server.settings) as grid:
        nodes = {node.name: node.node_id for node in grid.get_nodes()}
        seconds = {"north": 0, "South.2": 9}
        messages = [
            Message(RecordDict({"asked": ConfigRecord({"seconds": seconds[name]})}), node, "query")
            for name, node in nodes.items()
        ]
        began = time.monotonic()
        replies = grid.send_and_receive(messages, timeout=7)
        assert next(replies).metadata.src_node_id == nodes["north"]
        assert time.monotonic() - began < 6.5
        assert list(replies) == []
        assert time.monotonic() - began < 8
        assert echoed(grid, *sites)  # the late reply is nobody's


def test_of_an_exception_only_its_class_is_told(server: Server, sites: dict[str, Site]) -> None:
    with connected(server.settings) as grid:
        for reply in asked(grid, **{"raise": "/home/anna/patient-17.h5ad"}).values():
            assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            assert reply.error.reason == "PermissionError"
        assert echoed(grid, *sites)


def test_a_malformed_message_ends_no_site(server: Server, sites: dict[str, Site]) -> None:
    with connected(server.settings) as grid:
        node = next(iter(grid.get_node_ids()))
        content = RecordDict({"x": ConfigRecord({"part": b"\xff\xff"}), "y": MetricRecord({"z": 1})})
        sent = set(HttpGrid.push_messages(grid, [Message(content, node, "query")]))
        replies: list[Message] = []
        until(lambda: bool(replies.extend(HttpGrid.pull_messages(grid, sent)) or replies))
        assert replies[0].error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
        assert echoed(grid, *sites)


def test_a_superlink_that_is_killed_loses_no_reply(server: Server, sites: dict[str, Site]) -> None:
    with connected(server.settings) as grid:
        content = RecordDict({"asked": ConfigRecord({"seconds": 4.0, "word": "kept"})})
        messages = [Message(content, node, "query") for node in grid.get_node_ids()]
        replies = grid.send_and_receive(messages, timeout=TIMEOUT_SECONDS)
        killed = server.superlink
        threading.Timer(2.0, killed.kill).start()
        got = [reply.content["asked"]["word"] for reply in replies]
        assert got == ["kept"] * 2
        assert server.superlink.pid != killed.pid


def test_a_run_that_was_killed_makes_way_at_once(server: Server, sites: dict[str, Site], tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from flwr.app import *
from scfl_green.sites.link import connected
from scfl_green.sites.server import ServerSettings
with connected(ServerSettings.read(Path({str(server.settings.folder)!r}))) as grid:
    content = RecordDict({{"asked": ConfigRecord({{"seconds": 5.0}})}})
    print("asking", flush=True)
    list(grid.send_and_receive([Message(content, node, "query") for node in grid.get_node_ids()]))
"""
    other = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "asking\n"
    time.sleep(2)
    with pytest.raises(BusyError, match="another run"), connected(server.settings):
        pass
    other.kill()
    other.wait()
    other.stdout.close()
    began = time.monotonic()
    with connected(server.settings) as grid:
        assert time.monotonic() - began < 10
        assert echoed(grid, *sites)


def test_a_site_that_was_killed_is_asked_again_within_its_lease(server: Server, sites: dict[str, Site]) -> None:
    site = sites["north"]
    with connected(server.settings) as grid:
        content = RecordDict({"asked": ConfigRecord({"seconds": 8.0, "word": "kept"})})
        replies = grid.send_and_receive([Message(content, site.link.node_id, "query")], timeout=TIMEOUT_SECONDS)

        def again() -> None:
            site.kill()
            site.start()

        threading.Timer(4.0, again).start()
        (reply,) = replies
        assert reply.content["asked"]["word"] == "kept"
        assert reply.metadata.src_node_id == site.link.node_id
        assert "was not ended properly" in site.out.read_text()
        assert echoed(grid, *sites)


def test_a_site_that_was_stopped_is_given_up(server: Server) -> None:
    site = Site(server, "short")
    with connected(server.settings) as grid:
        content = RecordDict({"asked": ConfigRecord({"seconds": 60.0})})
        replies = grid.send_and_receive([Message(content, site.link.node_id, "query")], timeout=TIMEOUT_SECONDS)
        threading.Timer(5.0, site.stop).start()
        began = time.monotonic()
        (reply,) = replies
        assert reply.error.code == ErrorCode.NODE_UNAVAILABLE
        assert reply.metadata.src_node_id == site.link.node_id
        assert time.monotonic() - began < 60


def test_a_lost_answer_is_given_again_without_the_work(server: Server) -> None:
    site = Site(server, "forgetful")
    with connected(server.settings) as grid:
        content = RecordDict({"asked": ConfigRecord({"seconds": 10.0})})
        for least, most in ((10, 60), (0, 9)):
            began = time.monotonic()
            (reply,) = grid.send_and_receive([Message(content, site.link.node_id, "query")], timeout=TIMEOUT_SECONDS)
            assert not reply.has_error()
            assert least <= time.monotonic() - began < most
    site.stop()


def test_a_network_that_is_gone_for_half_a_minute(server: Server, sites: dict[str, Site]) -> None:
    with connected(server.settings) as grid:
        content = RecordDict({"asked": ConfigRecord({"seconds": 5.0, "word": "kept"})})
        replies = grid.send_and_receive(
            [Message(content, node, "query") for node in grid.get_node_ids()], timeout=TIMEOUT_SECONDS
        )
        threading.Timer(2.0, server.process.send_signal, [signal.SIGSTOP]).start()
        threading.Timer(32.0, server.process.send_signal, [signal.SIGCONT]).start()
        began = time.monotonic()
        assert [reply.content["asked"]["word"] for reply in replies] == ["kept"] * 2
        assert time.monotonic() - began > 30
        assert echoed(grid, *sites)


def test_flowers_counter_of_bytes_is_ours(server: Server, sites: dict[str, Site]) -> None:
    content = RecordDict({"x": ArrayRecord({"x": Array(np.random.default_rng(0).random(2**17))})})
    with connected(server.settings) as grid:
        message = Message(content, dst_node_id=1, message_type="query")
        ours = len(sites) * len(message_to_proto(message).SerializeToString())
        asked(grid, content)

        def counted() -> tuple[int, int]:
            with control(server.settings) as calls:
                (run,) = [run for run in calls.runs() if run.run_id == grid.run.run_id]
            return run.bytes_sent, run.bytes_recv

        # The counter of a message comes after the message.
        until(lambda: min(counted()) >= ours)
        flowers = counted()
    assert max(flowers) < 1.01 * ours


def test_nothing_of_a_message_stays_in_the_database(server: Server, sites: dict[str, Site]) -> None:
    secret = os.urandom(64)
    with connected(server.settings) as grid:
        asked(grid, RecordDict({"asked": ConfigRecord({"bytes": secret})}))
    server.stop()
    stored = [path for path in server.settings.folder.rglob("*") if path.is_file()]
    assert server.settings.folder / "link.db" in stored
    assert not [path for path in stored if secret in path.read_bytes()]
    server.start()
    server.says("is ready")
    until(lambda: all(server.connected(name) for name in sites))
    with connected(server.settings) as grid:
        assert echoed(grid, *sites)


def test_a_server_that_was_killed_leaves_no_superlink(server: Server, sites: dict[str, Site]) -> None:
    left = server.superlink
    server.kill()
    assert until(lambda: not left.is_running() or left.status() == "zombie", 20) < 20
    server.start()
    server.says("is ready")
    with connected(server.settings) as grid:
        until(lambda: len(list(grid.get_node_ids())) == len(sites))
        assert echoed(grid, *sites)


def test_an_invitation_is_good_once_and_for_a_week(server: Server, tmp_path: Path) -> None:
    invitation = Invitation.read(server.invitation("once"))
    folder = tmp_path / "one"
    first = join(invitation, folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "site.key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(InputError, match="a site is here already"):
        join(invitation, folder)
    with pytest.raises(InputError, match="the invitation of once has been used"):
        join(invitation, tmp_path / "two")
    (folder / "member.json").unlink()  # as if no answer had come
    assert join(invitation, folder).node_id == first.node_id
    late = Invitation.read(server.invitation("late"))
    yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    replace(records(server.settings)["late"], expires=yesterday).write(server.settings.folder / "invitations")
    with pytest.raises(InputError, match="expired on"):
        join(late, tmp_path / "late")
    for unknown in (replace(late, name="nobody"), replace(late, secret="00")):
        with pytest.raises(InputError, match="does not know this invitation"):
            join(unknown, tmp_path / "unknown")
    assert states(server.settings)["late"].startswith("invitation expired")
    assert states(server.settings)["once"] == "joined, not connected"


def test_another_authority_is_believed_by_nobody(server: Server, tmp_path: Path) -> None:
    other = init(tmp_path / "other", "localhost", 1024)
    invitation = Invitation.read(server.invitation("careful"))
    with pytest.raises(InputError, match="CERTIFICATE_VERIFY_FAILED"):
        join(replace(invitation, authority=other.authority), tmp_path / "site")
    with pytest.raises(InputError, match="not reached"):
        join(replace(invitation, address=f"127.0.0.2:{server.settings.port}"), tmp_path / "site")


def test_a_key_that_was_not_registered_or_was_removed_is_refused(server: Server, tmp_path: Path) -> None:
    link = join(Invitation.read(server.invitation("gone")), tmp_path / "gone")
    with pytest.raises(InputError, match="does not know the key of gone"):
        serve(replace(link, key=new_key()), lambda message, size: message)
    assert leave(tmp_path / "gone") == ""
    assert not (tmp_path / "gone" / "site.key").exists()
    assert "gone" not in states(server.settings)
    with pytest.raises(InputError, match="does not know the key of gone"):
        serve(link, lambda message, size: message)


def test_a_removed_site_ends_with_a_line(server: Server) -> None:
    site = Site(server, "unwanted")
    subprocess.run(
        [sys.executable, "-m", "scfl_green", "server", "remove", "unwanted", "--folder", str(server.settings.folder)],
        check=True,
    )
    assert site.process.wait(60) != 0
    assert "it was removed; ask for a new invitation" in site.out.read_text()


def routes() -> dict[str, list[str]]:
    """Every path of the SuperLink, by its first words."""
    from flwr.superlink.main import create_app

    paths: dict[str, list[str]] = {"fleet": [], "control": [], "runtime": [], "other": ["/docs", "/openapi.json"]}
    for path in create_app().openapi()["paths"]:
        kind = path.removeprefix("/v1/").split("/")[0]
        paths[kind if path.startswith("/v1/") and kind in paths else "other"].append(path)
    return paths


def test_an_outsider_reaches_nothing(server: Server, sites: dict[str, Site]) -> None:
    """With the public certificate alone, every call of the SuperLink is refused: most by the gateway, which has no such
    path, and those that sites need by the SuperLink's authentication of nodes."""
    headers = {"content-type": PROTOBUF_MEDIA_TYPE, "accept": PROTOBUF_MEDIA_TYPE}
    paths = routes()
    assert (len(paths["fleet"]), len(paths["control"]) > 30, len(paths["runtime"]) > 15) == (12, True, True)
    table: dict[str, int] = {}
    with httpx.Client(base_url=f"https://{server.settings.address}", verify=trusting(server.settings.authority)) as web:
        for path in (path for kind in paths.values() for path in kind):
            for method in ("GET", "POST"):
                table[f"{method} {path}"] = web.request(method, path, headers=headers).status_code
    passed = {call for call, status in table.items() if status != 404}
    parts = ("pull-messages", "push-messages", "pull-object", "push-object", "confirm-message-received")
    needed = ("activate-node", "deactivate-node", "send-node-heartbeat", *parts)
    assert passed == {f"POST /v1/fleet/{name}" for name in needed}
    assert {table[call] for call in passed} == {401}
