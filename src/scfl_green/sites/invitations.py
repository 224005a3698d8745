"""Invitations: a site proves with a secret, once, that a key is its own; the coordinator handed it the secret."""

import hmac
import io
import json
import secrets
import tarfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from scfl_green.errors import InputError
from scfl_green.sites.keys import write_private
from scfl_green.sites.server import NAME, ServerSettings

VALID_DAYS = 7
# What an invitation holds, each a small text.
MEMBERS, MOST_BYTES = ("ca.crt", "invitation.json"), 100_000


@dataclass(frozen=True)
class Record:
    """What the server keeps of an invitation: a file of its own, mode 600."""

    name: str
    secret: str
    expires: str
    public_key: str = ""
    node_id: int = 0

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls(**json.loads(path.read_text()))

    def write(self, folder: Path) -> None:
        write_private(folder / f"{self.name}.json", json.dumps(asdict(self), indent=1).encode())

    @property
    def expired(self) -> bool:
        return datetime.now(UTC) > datetime.fromisoformat(self.expires)


def records(server: ServerSettings) -> dict[str, Record]:
    """All that were invited, by name, whether they have joined or not."""
    return {path.stem: Record.read(path) for path in sorted((server.folder / "invitations").glob("*.json"))}


def invite(server: ServerSettings, name: str, path: Path) -> Record:
    """Write an invitation for one site: the server's address and authority, the site's name and a secret; mode 600.

    InputError if the name is not fit for one, or is taken, or if the file is there already.
    """
    if not NAME.fullmatch(name):
        raise InputError(f"{name!r}: a name has letters, digits, dots, dashes and underscores, at most 63")
    known = {other.casefold(): record for other, record in records(server).items()}
    taken = known.get(name.casefold())
    if taken is not None and (taken.public_key or not taken.expired):
        state = "is a site already" if taken.public_key else "was invited already"
        raise InputError(f"{name}: {taken.name} {state}; first scfl-green server remove {taken.name}")
    if path.exists():
        raise InputError(f"{path}: is there already; delete it, or name another file with -o")
    record = Record(name, secrets.token_hex(32), (datetime.now(UTC) + timedelta(days=VALID_DAYS)).isoformat())
    told = {"name": name, "address": server.address, "secret": record.secret, "expires": record.expires}
    record.write(server.folder / "invitations")
    write_private(path, _packed({"ca.crt": server.authority, "invitation.json": json.dumps(told, indent=1).encode()}))
    return record


def _packed(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            about = tarfile.TarInfo(name)
            about.size, about.mode = len(content), 0o600
            tar.addfile(about, io.BytesIO(content))
    return packed.getvalue()


@dataclass(frozen=True)
class Invitation:
    """What a hospital reads in the file that it was sent. ``authority`` is a certificate (PEM)."""

    name: str
    address: str
    secret: str
    expires: str
    authority: bytes

    @classmethod
    def read(cls, path: Path) -> Self:
        """InputError if the file is no invitation. Nothing is unpacked to disk."""
        try:
            with tarfile.open(path, "r:") as tar:
                files = {name: _member(tar, name) for name in MEMBERS}
            read = cls(authority=files["ca.crt"], **json.loads(files["invitation.json"]))
            if not (NAME.fullmatch(read.name) and all(isinstance(value, str) for value in (read.address, read.secret))):
                raise ValueError("its fields")
        except (OSError, KeyError, TypeError, ValueError, tarfile.TarError) as error:
            raise InputError(f"{path}: not an invitation to a federation ({error})") from None
        return read


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    about = tar.getmember(name)
    if not about.isfile() or about.size > MOST_BYTES:
        raise ValueError(f"{name} is no small file")
    file = tar.extractfile(about)
    assert file is not None
    return file.read()


def proof(secret: str, name: str, public_key: str) -> str:
    """What only a holder of the secret can say of a key (HMAC-SHA256)."""
    return hmac.new(secret.encode(), f"{name}\n{public_key}".encode(), "sha256").hexdigest()


def farewell(name: str, time: str) -> bytes:
    """What a site signs to leave: ``time`` in ISO 8601."""
    return f"leave\n{name}\n{time}".encode()
