"""The command lines of ``scfl-green server`` and ``scfl-green site``; each command imports only what it needs."""

import logging
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfl_green.errors import InputError, Stopped

if TYPE_CHECKING:
    from flwr.app import Message

    from scfl_green.sites.settings import SiteSettings

SERVER, SITE, PORT = Path("federation"), Path("site"), 8443


def add(commands: Any) -> None:
    """Add ``server`` and ``site`` to the commands of the program."""
    server: ArgumentParser = commands.add_parser(
        "server", help="for a federation's coordinator: invite sites, and serve"
    )
    actions = server.add_subparsers(metavar="ACTION", required=True)
    init = _action(actions, "init", SERVER, _init, "make keys, certificates and settings")
    init.add_argument("--host", default="localhost", help="name or address by which the sites reach this machine")
    init.add_argument("--port", type=int, default=PORT, help=f"that the sites reach ({PORT}); must be open to them")
    _action(actions, "start", SERVER, _start, "serve until Ctrl-C")
    invite = _action(actions, "invite", SERVER, _invite, "write an invitation for one site, to be sent by a safe way")
    invite.add_argument("name", metavar="NAME", help="of the site")
    invite.add_argument("-o", "--output", type=Path, metavar="FILE", help="by default NAME.tar")
    _action(actions, "sites", SERVER, _sites, "list who was invited, who has joined and who is connected")
    _action(actions, "remove", SERVER, _remove, "forget a site or an invitation").add_argument("name", metavar="NAME")
    site: ArgumentParser = commands.add_parser("site", help="for a hospital: take part in a federation")
    actions = site.add_subparsers(metavar="ACTION", required=True)
    join = _action(actions, "join", SITE, _join, "accept an invitation, and answer the server's messages")
    join.add_argument("invitation", type=Path, metavar="INVITATION.tar")
    _cells(join, required=True)
    join.add_argument("--yes", action="store_true", help="do not ask before the site joins")
    check = _action(actions, "check", SITE, _check, "show what would be told, without connecting to anything")
    _cells(check, required=False)
    _action(actions, "start", SITE, _go_on, "go on after a reboot")
    _action(actions, "leave", SITE, _leave, "leave the federation, and delete the site's key")


def _cells(action: ArgumentParser, required: bool) -> None:
    action.add_argument("--cells", type=Path, required=required, metavar="CELLS.h5ad")
    action.add_argument("--label-key", default="cell_type", metavar="COLUMN", help="of the cell types (cell_type)")
    action.add_argument("--country", default="DEU", metavar="ISO", help="whose electricity is used (DEU)")


def _action(actions: Any, name: str, folder: Path, does: Callable[[Namespace], None], about: str) -> ArgumentParser:
    action: ArgumentParser = actions.add_parser(name, help=about)
    action.add_argument("--folder", type=Path, default=folder, help=f"by default {folder}")
    action.set_defaults(does=does)
    return action


def _init(options: Namespace) -> None:
    from scfl_green.sites.server import init

    made = init(options.folder, options.host, options.port)
    print(f"{made.folder}: the server of a federation at https://{made.address}; next: scfl-green server start")


def _start(options: Namespace) -> None:
    from scfl_green.sites.server import ServerSettings
    from scfl_green.sites.supervisor import start

    server = ServerSettings.read(options.folder)
    with _until_stopped():
        start(server)


def _invite(options: Namespace) -> None:
    from scfl_green.sites.invitations import VALID_DAYS, invite
    from scfl_green.sites.server import ServerSettings

    path = options.output or Path(f"{options.name}.tar")
    invite(ServerSettings.read(options.folder), options.name, path)
    print(f"{path}: send it to {options.name} alone; it can be used once, within {VALID_DAYS} days")


def _sites(options: Namespace) -> None:
    from scfl_green.sites.server import ServerSettings
    from scfl_green.sites.states import states
    from scfl_green.terminal import drawn

    rows = list(states(ServerSettings.read(options.folder)).items())
    print(drawn(("site", "state"), rows) if rows else "no site was invited yet: scfl-green server invite NAME")


def _remove(options: Namespace) -> None:
    from scfl_green.sites.control import control
    from scfl_green.sites.enrolment import remove
    from scfl_green.sites.server import ServerSettings

    server = ServerSettings.read(options.folder)
    with control(server) as calls:
        remove(server, calls, options.name)
    print(f"{options.name}: removed; its key is refused from now on")


def _join(options: Namespace) -> None:
    from scfl_green.sites.invitations import Invitation
    from scfl_green.sites.membership import join
    from scfl_green.sites.preview import preview

    invitation = Invitation.read(options.invitation)
    settings = _settings(options, invitation.name)
    print(preview(settings))
    if not options.yes and not _agrees(f"Join {invitation.address} as {invitation.name}?"):
        return
    join(invitation, options.folder)
    settings.save(options.folder)
    _go_on(options)


def _check(options: Namespace) -> None:
    from scfl_green.sites.preview import preview
    from scfl_green.sites.settings import SiteSettings

    print(preview(_settings(options, "this-site") if options.cells else SiteSettings.load(options.folder)))


def _settings(options: Namespace, name: str) -> "SiteSettings":
    from scfl_green.sites.settings import checked

    values = {"name": name, "cells": options.cells.absolute(), "label_key": options.label_key}
    return checked(values | {"country": options.country}, "scfl-green site")


def _agrees(question: str) -> bool:
    if not sys.stdin.isatty():
        raise InputError("nobody is here to agree: add --yes")
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _go_on(options: Namespace) -> None:
    from scfl_green.sites.membership import alone, read
    from scfl_green.sites.node import serve

    link = read(options.folder)
    with _until_stopped(), alone(options.folder):
        serve(link, _hospital(options.folder))


def _leave(options: Namespace) -> None:
    from scfl_green.sites.membership import alone, leave

    with alone(options.folder):
        print(leave(options.folder) or f"{options.folder}: the site has left, and its key is deleted")


def _hospital(folder: Path) -> "Callable[[Message, int], Message]":
    """What answers the messages to the site in a folder."""
    from scfl_green.energy.meter import EnergyMeter
    from scfl_green.sites.answering import Answering
    from scfl_green.sites.hospital import Hospital
    from scfl_green.sites.settings import SiteSettings

    settings = SiteSettings.load(folder)
    meter = EnergyMeter(settings.country, settings.cpu_watts, settings.ram_watts)
    return Answering(Hospital(settings, folder, meter))


@contextmanager
def _until_stopped() -> Iterator[None]:
    """Tell what happens, a line each, until a signal to stop, after which all is ended in order."""
    logger, handler = logging.getLogger("scfl_green"), logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        yield
    except Stopped:
        logger.info("stopped")


def _stop(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second signal kills; what the server holds ends with it
    raise Stopped(number)
