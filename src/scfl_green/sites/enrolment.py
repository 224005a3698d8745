"""The server's side of joining and leaving: whose keys the SuperLink knows."""

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from scfl_green.errors import InputError
from scfl_green.sites.control import Control
from scfl_green.sites.invitations import Record, farewell, proof, records
from scfl_green.sites.server import ServerSettings

# By how much a site's clock may differ from the server's, as for Flower's node authentication.
CLOCK_SECONDS = 300.0


def accept(server: ServerSettings, control: Control, asked: Mapping[str, str]) -> Record:
    """Register a site's key for its invitation, which is then used up; the same site may ask again, if no answer came.

    ``asked``: name, public_key (PEM) and proof. InputError, a sentence for the site, if the invitation is used, expired
    or unknown.
    """
    name, public_key = asked["name"], asked["public_key"]
    record = records(server).get(name)
    expected = proof(record.secret if record else secrets.token_hex(32), name, public_key)
    if not hmac.compare_digest(expected.encode(), asked["proof"].encode()) or record is None:
        raise InputError("the server does not know this invitation; ask the coordinator for a new one")
    if record.public_key == public_key:
        return record
    if record.public_key:
        raise InputError(f"the invitation of {name} has been used; if it was not by you, tell the coordinator at once")
    if record.expired:
        raise InputError(f"the invitation of {name} expired on {record.expires[:10]}; ask for a new one")
    # Registered before a server was killed, and not yet written here.
    known = {bytes(site.public_key): site.node_id for site in control.sites()}
    node_id = known.get(public_key.encode()) or control.register(name, public_key.encode())
    joined = replace(record, public_key=public_key, node_id=node_id)
    joined.write(server.folder / "invitations")
    return joined


def remove(server: ServerSettings, control: Control, name: str) -> None:
    """Forget a site or its invitation: its key is refused from now on. InputError if there is none of this name."""
    record = records(server).get(name)
    if record is None:
        raise InputError(f"{name}: no such site; scfl-green server sites lists them")
    for site in control.sites():
        if site.name == name:
            control.unregister(site.node_id)
    (server.folder / "invitations" / f"{name}.json").unlink()


def leave(server: ServerSettings, control: Control, asked: Mapping[str, str]) -> None:
    """Remove a site at its own wish. ``asked``: name, time and signature. InputError if its key has not signed it."""
    record = records(server).get(asked["name"])
    age = abs((datetime.now(UTC) - datetime.fromisoformat(asked["time"])).total_seconds())
    if record is None or not record.public_key or age > CLOCK_SECONDS:
        raise InputError(f"{asked['name']}: no such site, or its clock is not the server's")
    key = load_pem_public_key(record.public_key.encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)  # as the SuperLink registers no other
    try:
        key.verify(bytes.fromhex(asked["signature"]), farewell(record.name, asked["time"]), ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise InputError(f"{record.name}: the signature is not the site's") from None
    remove(server, control, record.name)
