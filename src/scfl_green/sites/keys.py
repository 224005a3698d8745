"""Keys and certificates: an authority of the federation's own, and a key pair for each site."""

import ipaddress
import os
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

AUTHORITY_DAYS, CERTIFICATE_DAYS = 3650, 730


def new_key() -> ec.EllipticCurvePrivateKey:
    """A private key on P-384, a curve that Flower's node authentication takes."""
    return ec.generate_private_key(ec.SECP384R1())


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def write_private(path: Path, content: bytes) -> None:
    """Write a file for its owner's eyes alone, from its first byte on; it appears whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def trusting(authority: bytes) -> ssl.SSLContext:
    """Of a client that believes this authority (PEM) alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority.decode("ascii"))
    return context


def write_authority(folder: Path) -> None:
    """Write ``ca.key`` and ``ca.crt``, whose holder says who the server is."""
    key = new_key()
    write_private(folder / "ca.key", private_pem(key))
    named = _named("scFL-Green federation")
    built = _builder(key.public_key(), named, named, key, AUTHORITY_DAYS)
    built = built.add_extension(x509.BasicConstraints(True, 0), critical=True)
    built = built.add_extension(_usage(signs_certificates=True), critical=True)
    (folder / "ca.crt").write_bytes(built.sign(key, hashes.SHA384()).public_bytes(Encoding.PEM))


def write_certificate(folder: Path, host: str) -> None:
    """Write ``link.key`` and ``link.crt`` of the server: valid for its public name and on its own machine."""
    authority, signer = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes()), read_key(folder / "ca.key")
    key = new_key()
    names = [_general(name) for name in dict.fromkeys((host, "localhost", "127.0.0.1"))]
    built = _builder(key.public_key(), _named(host[:64]), authority.subject, signer, CERTIFICATE_DAYS)
    built = built.add_extension(x509.SubjectAlternativeName(names), critical=False)
    built = built.add_extension(x509.BasicConstraints(False, None), critical=True)
    built = built.add_extension(_usage(signs_certificates=False), critical=True)
    built = built.add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    write_private(folder / "link.key", private_pem(key))
    write_private(folder / "link.crt", built.sign(signer, hashes.SHA384()).public_bytes(Encoding.PEM))


def _builder(
    key: ec.EllipticCurvePublicKey, subject: x509.Name, issuer: x509.Name, signer: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
    # A day back, for sites whose clocks are late.
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=days))
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    return builder.add_extension(identifier, critical=False)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
