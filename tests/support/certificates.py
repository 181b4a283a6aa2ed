"""Certificates for servers of the tests: a self-signed one, and one of a private certificate authority."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

CERTIFICATE, KEY = "certificate.pem", "key.pem"  # in the folder
PEM = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
SIGNS = x509.KeyUsage(
    digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
    key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
)  # fmt: skip


def self_signed(folder: Path, *hosts: str) -> ssl.SSLContext:
    """What a server for these hosts, or 127.0.0.1, speaks TLS with.

    The certificate, which a client would have to trust, and its key are written into the folder.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    return _context(folder, _certificate("test", key, _hosts(*(hosts or ("127.0.0.1",))), "test", key), key)


def signed(folder: Path, *hosts: str) -> tuple[Path, ssl.SSLContext]:
    """The file of a new authority's certificate, and what a server for these hosts speaks TLS with."""
    authority, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    is_authority = x509.BasicConstraints(ca=True, path_length=None)
    (folder / "ca.pem").write_bytes(_certificate("CA", authority, is_authority, "CA", authority).public_bytes(PEM[0]))
    return folder / "ca.pem", _context(folder, _certificate("test", key, _hosts(*hosts), "CA", authority), key)


def _certificate(
    subject: str, key: ec.EllipticCurvePrivateKey, is_for: x509.ExtensionType, by: str, its: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    issuer, name = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)]) for each in (by, subject))
    is_authority = isinstance(is_for, x509.BasicConstraints)
    made = (
        x509.CertificateBuilder(issuer, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
        .add_extension(is_for, critical=is_authority)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(its.public_key()), critical=False)
    )
    if is_authority:  # Python 3.13 holds authorities to RFC 5280, 4.2.1
        made = made.add_extension(SIGNS, critical=True)
    return made.sign(its, hashes.SHA256())


def _context(folder: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> ssl.SSLContext:
    (folder / CERTIFICATE).write_bytes(certificate.public_bytes(PEM[0]))
    (folder / KEY).write_bytes(key.private_bytes(*PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / CERTIFICATE, folder / KEY)
    return context


def _hosts(*hosts: str) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([*map(_general, hosts)])


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
