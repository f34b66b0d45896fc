"""Address and token that connect a worker on another machine to its host, and the TLS contexts of both ends."""

from __future__ import annotations

import os
import ssl

import msgspec

SERVER_NAME = "host.handler-host.invalid"
"""The name in the listener's certificate. It is not an address: the workers pin the certificate itself."""

TOKEN_BYTES = 32


class HostAddress(msgspec.Struct, frozen=True):
    """The first line of a remote worker's standard input, as JSON."""

    host: str
    port: int
    token: bytes
    """Used once, by this worker, within seconds."""
    certificate: str | None
    """Certificate of the host as PEM; None: plain TCP."""

    def __repr__(self) -> str:
        return f"HostAddress({self.host!r}, {self.port})"


def server_context(certificate_and_key: bytes) -> ssl.SSLContext:
    """Return the context of the host's end."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # ssl reads certificates from files only; this one is in memory, and the key never reaches a disk.
    fd = os.memfd_create("handler-host-certificate")
    try:
        os.write(fd, certificate_and_key)
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    return context


def client_context(certificate: str) -> ssl.SSLContext:
    """Return the context of a worker's end, which trusts this certificate alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=certificate)
    return context


def public_part(certificate_and_key: bytes) -> str:
    """Return the certificate without the private key."""
    head, mark, _ = certificate_and_key.decode("ascii").partition("-----END CERTIFICATE-----\n")
    return head + mark
