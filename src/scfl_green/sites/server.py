"""The server's folder: its settings, its keys and its certificates."""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from omegaconf import OmegaConf

from scfl_green.errors import InputError
from scfl_green.files import folder_at_once
from scfl_green.sites.keys import write_authority, write_certificate, write_private

SETTINGS = "server.yaml"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True)
class ServerSettings:
    """Of the federation's server, all of whose files lie in ``folder``.

    ``host`` and ``port``: where the sites reach the gateway. ``link_port``: of the SuperLink, on this machine alone.
    """

    folder: Path
    host: str
    port: int
    link_port: int

    @classmethod
    def read(cls, folder: Path) -> Self:
        """InputError if the folder is no server's."""
        try:
            read = OmegaConf.load(folder / SETTINGS)
            return cls(folder, str(read.host), int(read.port), int(read.link_port))
        except FileNotFoundError:
            raise InputError(f"{folder}: no server is here; make one with scfl-green server init") from None
        except Exception as error:
            raise InputError(f"{folder / SETTINGS}: not the settings of a server ({error})") from None

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def link_address(self) -> str:
        return f"127.0.0.1:{self.link_port}"

    @property
    def authority(self) -> bytes:
        """The certificate (PEM) that the server's own is signed with."""
        return (self.folder / "ca.crt").read_bytes()


def init(folder: Path, host: str, port: int) -> ServerSettings:
    """Make the folder of a new server, readable by its owner alone: settings, an authority and a certificate.

    InputError if there is something already, or if no site could reach such a host.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: there is something already; name another folder with --folder")
    _check(host, port)
    made = ServerSettings(folder, host, port, port + 1)
    with folder_at_once(folder) as draft:  # of mode 700, as a temporary folder is
        write_authority(draft)
        write_certificate(draft, host)
        (draft / "invitations").mkdir(mode=0o700)
        settings = OmegaConf.to_yaml({"host": host, "port": port, "link_port": made.link_port})
        write_private(draft / SETTINGS, settings.encode())
    return made


def _check(host: str, port: int) -> None:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not re.fullmatch(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", host):
            raise InputError(f"--host {host!r}: a name or an address, such as federation.example.org") from None
    if not 1 <= port < 65535:
        raise InputError(f"--port {port}: from 1 to 65534; the port after it is used on this machine alone")
