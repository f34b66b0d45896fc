"""Sessions of operators who have signed in to the dashboard."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from typing import NamedTuple

LIFETIME_S = 12 * 3600.0
"""Time after which an operator must sign in again."""
MAX_SESSIONS = 64
"""Sessions at a time; the oldest one ends for a new one."""


class Session(NamedTuple):
    """Session of an operator."""

    name: str
    """Name in the audit log; it reveals nothing about the cookie."""
    csrf: str
    """Token that each change must send beside the cookie: another site cannot know it."""
    ends_at: float
    """On the monotonic clock: the time of day may jump."""


class Sessions:
    """Sessions by the digests of their cookies."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()

    def open(self, now: float | None = None) -> tuple[str, Session]:
        """Open a session; return the value of its cookie, which is kept nowhere, and the session."""
        at = time.monotonic() if now is None else now
        cookie = secrets.token_urlsafe(32)
        session = Session(f"session {secrets.token_hex(3)}", secrets.token_urlsafe(32), at + LIFETIME_S)
        self._sessions[_digest(cookie)] = session
        while len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return cookie, session

    def find(self, cookie: str, now: float | None = None) -> Session | None:
        """Return the session of a cookie, or None if it is unknown or has ended."""
        at = time.monotonic() if now is None else now
        digest = _digest(cookie)
        session = self._sessions.get(digest)
        if session is not None and at >= session.ends_at:
            del self._sessions[digest]
            return None
        return session

    def is_open(self, session: Session, now: float | None = None) -> bool:
        """Return whether a session has not ended."""
        at = time.monotonic() if now is None else now
        return at < session.ends_at and session in self._sessions.values()

    def close(self, cookie: str) -> None:
        """End the session of a cookie."""
        self._sessions.pop(_digest(cookie), None)


def is_equal(text: str, expected: str) -> bool:
    """Compare two texts in constant time."""
    return hmac.compare_digest(text.encode(errors="surrogateescape"), expected.encode())


def _digest(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode(errors="surrogateescape")).digest()
