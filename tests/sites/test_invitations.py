"""The server's and the hospital's files: who can read them, and what is no invitation."""

import io
import ssl
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from cryptography import x509

from scfl_green.cli import main
from scfl_green.errors import InputError
from scfl_green.sites.invitations import MEMBERS, Invitation, invite, records
from scfl_green.sites.keys import read_key, trusting
from scfl_green.sites.membership import join, read
from scfl_green.sites.server import ServerSettings, init


@pytest.fixture
def server(tmp_path: Path) -> ServerSettings:
    return init(tmp_path / "federation", "localhost", 8443)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in (folder, *folder.rglob("*"))}


def test_only_the_owner_reads_keys(server: ServerSettings, tmp_path: Path) -> None:
    invite(server, "north", tmp_path / "north.tar")
    found = modes(server.folder)
    assert found.pop("ca.crt") in (0o600, 0o644)  # sent to everybody
    assert found.pop("federation") == found.pop("invitations") == 0o700
    assert set(found) == {"ca.key", "link.key", "link.crt", "server.yaml", "north.json"}
    assert set(found.values()) == {0o600}
    assert (tmp_path / "north.tar").stat().st_mode & 0o777 == 0o600


def test_a_server_is_not_overwritten(server: ServerSettings) -> None:
    before = (server.folder / "ca.key").read_bytes()
    with pytest.raises(InputError, match="there is something already"):
        init(server.folder, "localhost", 8443)
    assert (server.folder / "ca.key").read_bytes() == before
    assert ServerSettings.read(server.folder) == server


@pytest.mark.parametrize(("host", "port"), [("", 8443), ("https://x", 8443), ("a b", 8443), ("x", 0), ("x", 65535)])
def test_a_host_that_no_site_could_reach_leaves_no_folder(tmp_path: Path, host: str, port: int) -> None:
    with pytest.raises(InputError, match=r"--host|--port"):
        init(tmp_path / "new", host, port)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("host", ["localhost", "federation.example.org", "192.0.2.7", "2001:db8::7"])
def test_the_certificate_names_the_host_and_is_signed_by_the_authority(tmp_path: Path, host: str) -> None:
    made = init(tmp_path / "federation", host, 8443)
    certificate = x509.load_pem_x509_certificate((made.folder / "link.crt").read_bytes())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(made.authority))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert host in {str(name.value) for name in names}
    assert read_key(made.folder / "link.key").public_key() == certificate.public_key()
    assert trusting(made.authority).verify_mode == ssl.CERT_REQUIRED


def test_an_invitation_tells_a_site_all_it_needs(server: ServerSettings, tmp_path: Path) -> None:
    record = invite(server, "north", tmp_path / "north.tar")
    told = Invitation.read(tmp_path / "north.tar")
    assert (told.name, told.address, told.authority) == ("north", "localhost:8443", server.authority)
    assert told.secret == record.secret == records(server)["north"].secret
    assert len(bytes.fromhex(told.secret)) == 32


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 64, "a b", "name\n"])
def test_a_name_that_is_no_file_name_is_refused(server: ServerSettings, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="letters, digits"):
        invite(server, name, tmp_path / "new.tar")
    assert not records(server)
    assert not (tmp_path / "new.tar").exists()


def test_a_name_is_given_once_whatever_its_case(server: ServerSettings, tmp_path: Path) -> None:
    invite(server, "north", tmp_path / "one.tar")
    with pytest.raises(InputError, match="north was invited already"):
        invite(server, "North", tmp_path / "two.tar")
    with pytest.raises(InputError, match="is there already"):
        invite(server, "south", tmp_path / "one.tar")
    assert list(records(server)) == ["north"]


def packed(path: Path, **members: tarfile.TarInfo | bytes) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            about = tarfile.TarInfo(MEMBERS[name == "invitation"]) if isinstance(content, bytes) else content
            about.size = len(content) if isinstance(content, bytes) else 0
            tar.addfile(about, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path


def link_to(target: str, name: str) -> tarfile.TarInfo:
    about = tarfile.TarInfo(name)
    about.type, about.linkname = tarfile.SYMTYPE, target
    return about


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"ca": b"x"},
        {"ca": b"x", "invitation": b"{"},
        {"ca": b"x", "invitation": b"[]"},
        {"ca": b"x", "invitation": b'{"name": "../up", "address": "a", "secret": "b", "expires": "c"}'},
        {"ca": b"x", "invitation": b'{"name": "n", "address": 1, "secret": "b", "expires": "c"}'},
        {"ca": b"x", "invitation": b'{"name": "n", "address": "a", "secret": "b", "expires": "c", "more": 1}'},
        {"ca": b"x" * 200_000, "invitation": b"{}"},
        {"ca": link_to("/etc/passwd", "ca.crt"), "invitation": b"{}"},
    ],
    ids=["empty", "half", "no JSON", "a list", "a path", "a number", "more", "large", "a link"],
)
def test_what_is_no_invitation_is_told_in_a_sentence(tmp_path: Path, members: dict) -> None:
    with pytest.raises(InputError, match="not an invitation to a federation"):
        Invitation.read(packed(tmp_path / "x.tar", **members))
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


def test_a_file_that_is_no_tar_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_text("hello")
    for path in (tmp_path / "x.tar", tmp_path / "missing.tar", tmp_path):
        with pytest.raises(InputError, match="not an invitation to a federation"):
            Invitation.read(path)


def test_a_server_that_is_not_there_is_told_in_a_sentence(server: ServerSettings, tmp_path: Path) -> None:
    made = init(tmp_path / "other", "localhost", 9)
    invite(made, "north", tmp_path / "north.tar")
    with pytest.raises(InputError, match=r"localhost:9 is not reached"):
        join(Invitation.read(tmp_path / "north.tar"), tmp_path / "site")
    with pytest.raises(InputError, match="no site is here"):
        read(tmp_path / "site")


def test_commands_end_in_a_line(server: ServerSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["server", "sites", "--folder", str(server.folder)])
    assert "no site was invited yet" in capsys.readouterr().out
    main(["server", "invite", "north", "--folder", str(server.folder), "-o", str(tmp_path / "north.tar")])
    main(["server", "sites", "--folder", str(server.folder)])
    assert "invited until" in capsys.readouterr().out
    for words, told in ((["server", "start"], "no server is here"), (["site", "start"], "no site is here")):
        with pytest.raises(SystemExit, match=told):
            main([*words, "--folder", str(tmp_path / "nowhere")])
    assert not (tmp_path / "nowhere").exists()


def test_the_network_needs_no_torch() -> None:
    modules = ("commands", "supervisor", "superlink", "gateway", "node", "membership", "link")
    code = (
        "import sys\n"
        + "".join(f"import scfl_green.sites.{name}\n" for name in modules)
        + "print('torch' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"
