"""A stream that keeps its connection; imports the SDK, so import it with the first request only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING

from openai import AsyncStream

if TYPE_CHECKING:
    from openai._streaming import ServerSentEvent

END_TIMEOUT_S = 0.5
"""Seconds in which a provider must end its response after ``[DONE]``, for the connection to be kept."""


class ReusableStream(AsyncStream[object]):
    """A stream that reads its response to the end, so that the next call can use its connection.

    The SDK's own stream stops reading at ``[DONE]`` and closes the connection if the last bytes have not come by then.
    Then each call costs a new connection, with a TLS handshake.
    """

    async def _iter_events(self) -> AsyncIterator[ServerSentEvent]:
        events = super()._iter_events()
        async for event in events:
            if event.data.startswith("[DONE]"):
                with suppress(TimeoutError):
                    async with asyncio.timeout(END_TIMEOUT_S):
                        async for _ in events:
                            pass
                return
            yield event
