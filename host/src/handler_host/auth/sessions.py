"""Sessions of operators in the dashboard, kept in signed cookies alone.

Each host with the same key accepts the cookie, also after a restart. The key is derived from the admin token, so
another token ends all sessions.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from typing import NamedTuple

import msgspec

LIFETIME_S = 12 * 3600.0
"""Time after which an operator must sign in again."""
MAX_CLOSED = 1024
"""Sessions that have been signed out and are refused until their end; beyond, the oldest one is forgotten."""


class Session(NamedTuple):
    """Session of an operator."""

    id: str
    csrf: str
    """Token that each change must send beside the cookie: another site cannot know it."""
    ends_at: float
    """Seconds since 1970: each host must agree on it."""

    @property
    def name(self) -> str:
        """Name in the audit log; it reveals nothing about the cookie's signature."""
        return f"session {self.id[:6]}"


class Sessions:
    """Makes and checks the cookies; ``key`` is secret."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._closed: OrderedDict[str, float] = OrderedDict()
        """Ends of the sessions that were signed out here, by ID."""

    def open(self, now: float | None = None) -> tuple[str, Session]:
        """Open a session; return the value of its cookie, which is kept nowhere, and the session."""
        at = time.time() if now is None else now
        content = msgspec.json.encode((secrets.token_hex(16), int(at + LIFETIME_S)))
        cookie = f"{_encode(content)}.{_encode(self._sign(b'cookie', content))}"
        session = self.find(cookie, at)
        assert session is not None, "the cookie has just been signed"
        return cookie, session

    def find(self, cookie: str, now: float | None = None) -> Session | None:
        """Return the session of a cookie, or None if it is not signed with the key, has ended, or was signed out."""
        at = time.time() if now is None else now
        encoded, _, signature = cookie.partition(".")
        try:
            content = _decode(encoded)
            if not hmac.compare_digest(_decode(signature), self._sign(b"cookie", content)):
                return None
            session_id, ends_at = msgspec.json.decode(content, type=tuple[str, int])
        except (ValueError, msgspec.MsgspecError):
            return None
        session = Session(session_id, _encode(self._sign(b"csrf", content)), ends_at)
        return session if self.is_open(session, at) else None

    def is_open(self, session: Session, now: float | None = None) -> bool:
        """Return whether a session has not ended."""
        return (time.time() if now is None else now) < session.ends_at and session.id not in self._closed

    def close(self, session: Session) -> None:
        """End a session on this host; other hosts accept its cookie until it expires."""
        now = time.time()
        self._closed[session.id] = session.ends_at
        while self._closed and (len(self._closed) > MAX_CLOSED or next(iter(self._closed.values())) <= now):
            self._closed.popitem(last=False)

    def _sign(self, purpose: bytes, content: bytes) -> bytes:
        return hmac.digest(self._key, purpose + b"\0" + content, hashlib.sha256)


def derive_key(token: str) -> bytes:
    """Return the key of all hosts with this admin token; the digest of the token, which files have, reveals nothing."""
    return hmac.digest(token.encode("utf-8", "surrogateescape"), b"handler-host dashboard sessions", hashlib.sha256)


def is_equal(text: str, expected: str) -> bool:
    """Compare two texts in constant time."""
    return hmac.compare_digest(text.encode(errors="surrogateescape"), expected.encode())


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """Return the bytes of a text; raises ``ValueError``."""
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if _encode(data) != text:
        raise ValueError("not the one form of these bytes")
    return data
