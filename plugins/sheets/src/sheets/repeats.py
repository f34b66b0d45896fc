"""A request with a key is done once: its answer is kept, and given again to who repeats it."""

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
"""Seconds for which answers are kept."""


def once(connection: sqlite3.Connection, operation: str, request: Keyed, work: Callable[[], Any]) -> Any:
    """Return what ``work`` returns, or has returned for the same request before; raises ``InvalidInput``.

    It is kept in the transaction of the work: both are there after a crash, or none is.
    """
    if request.key is None:
        return work()
    now = time.time()
    content = msgspec.json.encode(msgspec.structs.replace(request, key=None), order="deterministic")
    digest = hashlib.blake2b(content, digest_size=16).digest()
    connection.execute("DELETE FROM answers WHERE at < ?", (now - KEPT,))
    found = connection.execute(
        "SELECT digest, answer FROM answers WHERE operation = ? AND key = ?", (operation, request.key)
    ).fetchone()
    if found is None:
        response = work()
        row = (operation, request.key, digest, json.dumps(response), now)
        connection.execute("INSERT INTO answers (operation, key, digest, answer, at) VALUES (?, ?, ?, ?, ?)", row)
        return response
    if found[0] != digest:
        raise InvalidInput("key: it came with another request before; each request has a key of its own", param="key")
    return json.loads(found[1])
