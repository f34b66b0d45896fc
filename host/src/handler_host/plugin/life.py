"""Signs of life: bytes of a provider that are no chunk of the response, such as comments and pings."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

on_bytes: contextvars.ContextVar[Callable[[], None] | None] = contextvars.ContextVar("on_bytes", default=None)
"""Called for bytes of the provider of the dispatch that runs in this context; None if nothing waits for them."""


def note_bytes() -> None:
    """Restart the host's wait for the next chunk of the response: the provider has sent something."""
    note = on_bytes.get()
    if note is not None:
        note()


@asynccontextmanager
async def limit_silence(seconds: float) -> AsyncIterator[None]:
    """Raise ``TimeoutError`` if the block takes longer than ``seconds`` after the provider's last bytes."""
    outer = on_bytes.get()
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(seconds) as limit:

        def restart() -> None:
            with suppress(RuntimeError):  # the limit has passed, or the block has ended, which a task may outlive
                limit.reschedule(loop.time() + seconds)
            if outer is not None:
                outer()

        token = on_bytes.set(restart)
        try:
            yield
        finally:
            on_bytes.reset(token)
