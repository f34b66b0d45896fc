"""Idempotency keys: a request with a key runs once, and a repetition gets the stored response."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import msgspec

from handler_host.plugin import InvalidInput
from sheets.types import Keyed

KEPT = 86_400.0
"""Seconds to keep responses."""


def once(connection: sqlite3.Connection, operation: str, request: Keyed, work: Callable[[], Any]) -> Any:
    """Return the result of ``work``, or the stored one of the same request; raises ``InvalidInput``.

    The result is stored in the transaction of the work, so that a crash keeps both or neither.
    """
    if request.key is None:
        return work()
    now = time.time()
    content = msgspec.json.encode(msgspec.structs.replace(request, key=None), order="deterministic")
    digest = hashlib.blake2b(content, digest_size=16).digest()
    connection.execute("DELETE FROM answers WHERE at < ?", (now - KEPT,))
    stored = connection.execute(
        "SELECT digest, answer FROM answers WHERE operation = ? AND key = ?", (operation, request.key)
    ).fetchone()
    if stored is None:
        response = work()
        row = (operation, request.key, digest, json.dumps(response), now)
        connection.execute("INSERT INTO answers (operation, key, digest, answer, at) VALUES (?, ?, ?, ?, ?)", row)
        return response
    if stored[0] != digest:
        raise InvalidInput("key: it came with another request before; use a new key for each request", param="key")
    return json.loads(stored[1])
