"""Keys: where requests carry them, and whose they are. Only SHA-256 digests are kept."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from aiohttp import hdrs, web

from handler_host.auth.consumers import Consumers, SharedSlots
from handler_host.config import AuthConfig


class KeyRing:
    """Consumers with the digests of their keys, and the digest of the admin token."""

    def __init__(self, config: AuthConfig, instances: int = 1, shared_slots: SharedSlots | None = None) -> None:
        self.consumers = Consumers(config, instances, shared_slots)
        self.is_open = self.consumers.is_open
        """Whether there are no consumer keys, so that everybody on this machine is a consumer."""
        self._admin = bytes.fromhex(config.admin_token.removeprefix("sha256:")) if config.admin_token else None

    @property
    def has_admin(self) -> bool:
        """Whether there is an admin token."""
        return self._admin is not None

    def is_consumer(self, key: str) -> bool:
        """Return whether ``key`` belongs to a consumer."""
        return self.consumers.find(key) is not None

    def is_admin(self, key: str) -> bool:
        """Return whether ``key`` is the admin token; compares in constant time."""
        digest = hashlib.sha256(key.encode(errors="surrogateescape")).digest()
        return self._admin is not None and hmac.compare_digest(digest, self._admin)


class KeySource:
    """Places of a key in a request: ``Authorization: Bearer``, other headers, and perhaps a query parameter."""

    def __init__(self, headers: Iterable[str] = (), parameter: str | None = None) -> None:
        self.headers = tuple(headers)
        self._parameter = parameter

    def read(self, request: web.Request) -> str | None:
        """Return the key of a request, or None."""
        headers = request.headers
        authorization = headers.get(hdrs.AUTHORIZATION)
        if authorization is not None:
            scheme, _, key = authorization.partition(" ")
            return key.strip() or None if scheme.lower() == "bearer" else None
        for name in self.headers:
            if name in headers:
                return headers[name]
        return request.query.get(self._parameter) if self._parameter is not None else None
