"""Import aiohttp for a server: what only a client or a server of files needs waits for its first use.

At its import aiohttp reads the certificates that its client trusts (1.8 MB, 30 ms of CPU) and the system's table of
media types (0.3 MB). The host is not a client, and its few files have their media types in the code.
"""

from __future__ import annotations

import mimetypes
import ssl
import sys
from typing import Any


class _PostponedTrust(ssl.SSLContext):
    """A context that reads the system's certificates before its first connection."""

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        """Read the certificates, and make a connection of an event loop."""
        self._load()
        return self.wrap_bio(*arguments, **options)

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        """Read the certificates, and make a blocking connection."""
        self._load()
        return self.wrap_socket(*arguments, **options)

    def _load(self) -> None:
        self.__class__ = ssl.SSLContext  # type: ignore[assignment]
        self.load_default_certs()


def import_aiohttp() -> None:
    """Import ``aiohttp.web``; do nothing if aiohttp is imported already, as in an application with a mounted host."""
    if "aiohttp" in sys.modules:
        return
    postponed: list[ssl.SSLContext] = []

    def postpone(context: ssl.SSLContext, purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH) -> None:
        if purpose is ssl.Purpose.SERVER_AUTH:
            postponed.append(context)
        else:
            load_default_certs(context, purpose)

    load_default_certs = ssl.SSLContext.load_default_certs
    media_type_files = list(mimetypes.knownfiles)
    ssl.SSLContext.load_default_certs = postpone  # type: ignore[method-assign,assignment]
    mimetypes.knownfiles.clear()
    try:
        import aiohttp.web  # noqa: F401
    finally:
        ssl.SSLContext.load_default_certs = load_default_certs  # type: ignore[method-assign]
        mimetypes.knownfiles[:] = media_type_files
    for context in postponed:
        context.__class__ = _PostponedTrust
