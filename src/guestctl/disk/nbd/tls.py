"""TLS credentials in the layout of qemu's ``tls-creds-x509`` and ``tls-creds-psk``."""

from __future__ import annotations

import ssl
from pathlib import Path

from guestctl.core.errors import InvalidFormat, UnsupportedFeature

_MAX_KEYS_BYTES = 1 << 20


def server_context(directory: Path) -> ssl.SSLContext:
    """The credentials in `directory`, for TLS 1.2 and later.

    ``server-cert.pem`` and ``server-key.pem``, and where there is ``ca-cert.pem`` clients must show
    a certificate that it signed; or else ``keys.psk``, a line ``USER:HEX`` for each client.
    Raises ``OSError`` where files are missing or hold something else.
    """
    keys = directory / "keys.psk"
    certificate = directory / "server-cert.pem"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not certificate.exists() and keys.exists():
        _use_keys(context, keys)
        return context
    context.load_cert_chain(_existing(certificate), _existing(directory / "server-key.pem"))
    authority = directory / "ca-cert.pem"
    if authority.exists():
        context.load_verify_locations(authority)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _existing(path: Path) -> Path:
    """`path`; the error of the ssl module would not name it."""
    path.stat()
    return path


def _use_keys(context: ssl.SSLContext, path: Path) -> None:
    if not hasattr(context, "set_psk_server_callback"):
        raise UnsupportedFeature(
            f"{path}: pre-shared keys need Python 3.13 or later; use certificates", feature="TLS-PSK"
        )
    try:
        with path.open() as file:
            lines = file.read(_MAX_KEYS_BYTES).split()
        keys = {user: bytes.fromhex(key) for user, _, key in (line.partition(":") for line in lines)}
    except ValueError as error:
        raise InvalidFormat(f"{path}: not lines of USER:HEX", structure="pre-shared keys", offset=0) from error
    context.set_ciphers("PSK")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_psk_server_callback(lambda identity: keys.get(identity or "", b""))
