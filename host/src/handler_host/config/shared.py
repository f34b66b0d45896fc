"""``[shared]``: the store of what several hosts count together."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from handler_host.config.fields import Section, Timeout

SCHEMES = {"redis": "redis", "rediss": "rediss", "valkey": "redis", "valkeys": "rediss", "unix": "unix"}
"""Schemes of the URL, and those that the client library knows for them."""


class SharedConfig(Section, frozen=True, kw_only=True):
    """``[shared]``: Redis or Valkey for the limits of several hosts; needs ``handler-host[redis]``.

    Without it each host has its part of the limits (``server.instances``).
    """

    url: str | None = None
    """Address of the server.

    ``redis://`` or ``valkey://``, with TLS ``rediss://`` or ``valkeys://``, or ``unix://``. With a password only in the
    variable; in a file use ``password_file``.

    Example: ``"rediss://redis.internal:6380/0"``
    """
    password_file: Path | None = None
    """File with the password of the server, such as a mounted secret.

    Example: ``"/run/secrets/redis-password"``
    """
    on_failure: Literal["open", "closed"] = "open"
    """Requests of consumers with limits while the server does not respond.

    ``open``: the limits hold on each host alone, in its part (``server.instances``); ``closed``: 503.
    """
    timeout: Timeout = 0.25
    """Time for one decision, with the connection; beyond it the server counts as not responding."""
    prefix: str = "handler-host"
    """Start of all names in the server, for several installations in one server."""

    def __repr__(self) -> str:
        return f"SharedConfig(url=<{'set' if self.url else 'unset'}>, on_failure={self.on_failure!r})"


def find_url_flaw(url: str, *, is_file: bool) -> str | None:
    """Return the error of a URL, without the URL, which may have a password; None if it is valid."""
    try:
        parts = urlsplit(url)
        has_place = bool(parts.path if parts.scheme == "unix" else parts.hostname) and (parts.port or 1) > 0
        password = parts.password
    except ValueError:
        has_place, password, parts = False, None, urlsplit("")
    if parts.scheme not in SCHEMES or not has_place:
        return "must be like redis://HOST:PORT/NUMBER; rediss:// is with TLS"
    if password is not None and is_file:
        return "contains a password; set the URL in HANDLER_HOST_SHARED__URL, or the password in shared.password_file"
    return None
