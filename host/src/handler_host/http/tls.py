"""TLS at the host's own addresses: a certificate and its key in files, re-read on SIGHUP."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from handler_host.config import ServerConfig
from handler_host.plugin.errors import ConfigError

log = logging.getLogger(__name__)


def load_certificate(config: ServerConfig) -> TlsCertificate | None:
    """Return the certificate of the configuration, if it names one; raises :class:`ConfigError`."""
    if config.tls_cert is not None:
        return TlsCertificate(config.tls_cert, config.tls_key)
    if config.tls_key is not None:
        raise ConfigError("server.tls_key is set without server.tls_cert; set both, or neither")
    return None


class TlsCertificate:
    """A server's certificate; ``context`` always uses the files as they were last read."""

    def __init__(self, cert: Path, key: Path | None) -> None:
        self._cert = cert
        self._key = key
        self._current = self.context = self._read()
        self.context.sni_callback = self._use_current

    def reload(self) -> None:
        """Read the files again, for new connections; raises :class:`ConfigError` and keeps the former certificate."""
        former = self._content
        self._current = self._read()
        state = "unchanged" if self._content == former else "replaced, for new connections"
        log.info("certificate re-read", extra={"fields": {"tls_cert": str(self._cert), "certificate": state}})

    def _use_current(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current

    def _read(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self._cert, self._key, password=lambda: b"")
            self._content = self._cert.read_bytes()
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
            raise ConfigError(
                f"server.tls_cert = {str(self._cert)!r}, server.tls_key = {str(self._key or self._cert)!r}: {reason}; "
                "both must be PEM files that the host may read, the key without a password"
            ) from error
        return context
