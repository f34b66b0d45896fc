"""A stream that is read to its end; this module imports the SDK, and is imported when a stream is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING

from openai import AsyncStream

if TYPE_CHECKING:
    from openai._streaming import ServerSentEvent

LAST_BYTES = 0.5
"""Seconds that a provider gets to end its answer after ``[DONE]``: nothing waits for it but the connection."""


class WholeStream(AsyncStream[object]):
    """Lets its connection be used again.

    The SDK's own stops reading at ``[DONE]``, and closes the connection of an answer
    whose last bytes have not come by then: each call makes a new one, with all that
    TLS takes.
    """

    async def _iter_events(self) -> AsyncIterator[ServerSentEvent]:
        events = super()._iter_events()
        async for event in events:
            if event.data.startswith("[DONE]"):
                with suppress(TimeoutError):
                    async with asyncio.timeout(LAST_BYTES):
                        async for _ in events:
                            pass
                return
            yield event
