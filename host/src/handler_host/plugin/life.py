"""Signs of life: bytes of a provider that are no chunk of the response, such as comments and pings."""

from __future__ import annotations

import contextvars
from collections.abc import Callable

on_bytes: contextvars.ContextVar[Callable[[], None] | None] = contextvars.ContextVar("on_bytes", default=None)
"""Called for bytes of the provider of the dispatch that runs in this context; None if nothing waits for them."""


def note_bytes() -> None:
    """Restart the host's wait for the next chunk of the response: the provider has sent something."""
    note = on_bytes.get()
    if note is not None:
        note()
