"""A hospital's folder: its private key, which never leaves it, and how it reaches the server it has joined."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from filelock import FileLock, Timeout

from scfl_green.errors import BusyError, InputError
from scfl_green.sites.invitations import Invitation, farewell, proof
from scfl_green.sites.keys import new_key, private_pem, public_pem, read_key, trusting, write_private
from scfl_green.sites.presence import Link

MEMBER, KEY, AUTHORITY = "member.json", "site.key", "ca.crt"
SECONDS = 30.0


def join(invitation: Invitation, folder: Path) -> Link:
    """Register a key made here under the invited name, and keep it in ``folder``, which its owner alone can read.

    What else lies in the folder stays. If no answer came, the same call may be made again. InputError if the folder
    belongs to a site already, if the server is not reached, or if it refuses, with its reason.
    """
    if (folder / MEMBER).exists():
        raise InputError(f"{folder}: a site is here already; go on with scfl-green site start, or name another folder")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    if not (folder / KEY).exists():
        write_private(folder / KEY, private_pem(new_key()))
    public_key = public_pem(read_key(folder / KEY)).decode()
    asked = {"name": invitation.name, "public_key": public_key}
    asked["proof"] = proof(invitation.secret, invitation.name, public_key)
    told = _asked(invitation.address, invitation.authority, "/join", asked)
    write_private(folder / AUTHORITY, invitation.authority)
    member = {"name": invitation.name, "address": invitation.address, "node_id": int(told["node_id"])}
    write_private(folder / MEMBER, json.dumps(member, indent=1).encode())
    return read(folder)


def read(folder: Path) -> Link:
    """The link of the site in a folder. InputError if none has joined there."""
    try:
        member = json.loads((folder / MEMBER).read_text())
        authority, key = (folder / AUTHORITY).read_bytes(), read_key(folder / KEY)
        return Link(str(member["name"]), str(member["address"]), authority, key, int(member["node_id"]))
    except FileNotFoundError as error:
        raise InputError(f"{folder}: no site is here ({Path(error.filename).name} is missing); join first") from None
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / MEMBER}: not the membership of a site ({error})") from None


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Only one process may be a site: two would take messages from each other. BusyError if there is one."""
    try:
        with FileLock(folder / "site.lock", timeout=0):
            yield
    except Timeout:
        raise BusyError(f"{folder}: this site is running already") from None


def leave(folder: Path) -> str:
    """Have the server forget the site, and delete its key; other files of the folder stay.

    Returns a sentence on what is left to do, empty if nothing.
    """
    link, time = read(folder), datetime.now(UTC).isoformat()
    signature = link.key.sign(farewell(link.name, time), ec.ECDSA(hashes.SHA384())).hex()
    left = ""
    try:
        _asked(link.address, link.authority, "/leave", {"name": link.name, "time": time, "signature": signature})
    except InputError as error:
        left = f"the server was not told ({error}); ask the coordinator for scfl-green server remove {link.name}"
    for name in (MEMBER, KEY, AUTHORITY):
        (folder / name).unlink()
    return left


def _asked(address: str, authority: bytes, path: str, asked: dict[str, str]) -> dict[str, str]:
    """The server's answer. InputError with its reason, or with that of the network."""
    try:
        answer = httpx.post(f"https://{address}{path}", json=asked, verify=trusting(authority), timeout=SECONDS)
        told = answer.json()
    except httpx.TransportError as error:
        raise InputError(f"{address} is not reached: {error}") from None
    except ValueError:
        raise InputError(f"{address}: this is no server of a federation (status {answer.status_code})") from None
    if answer.status_code != httpx.codes.OK:
        raise InputError(str(told.get("error", f"status {answer.status_code}"))[:500])
    return dict(told)
