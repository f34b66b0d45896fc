"""An event loop in a thread of its own, so that a test needs none, and blocks nobody by waiting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Generator, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from typing import Any, Self, TypeVar

Result = TypeVar("Result")

LIMIT = 60.0
"""Seconds after which a test that waits for something has failed: no measure of how fast anything is."""


class Background:
    """Runs coroutines for code that is not asynchronous; a context manager."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="handler_host.testing", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(TimeoutError):
            self.run(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LIMIT)
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def start(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Begin something; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, Result], limit: float = LIMIT) -> Result:
        """Return the result of ``work``; raises ``TimeoutError`` if it takes longer than ``limit`` seconds."""
        future = self.start(work)
        try:
            return future.result(limit)
        finally:
            future.cancel()

    @contextmanager
    def entered(self, manager: AbstractAsyncContextManager[Result]) -> Iterator[Result]:
        """Enter an asynchronous context manager, and leave it, in one task as it may demand."""
        leave = asyncio.Event()
        entered: Future[Result] = Future()

        async def hold() -> None:
            try:
                async with manager as value:
                    entered.set_result(value)
                    await leave.wait()
            except BaseException as error:
                if entered.done():
                    raise
                entered.set_exception(error)

        holding = self.start(hold())
        try:
            yield entered.result(LIMIT)
        finally:
            self._loop.call_soon_threadsafe(leave.set)
            holding.result(LIMIT)

    def iterate(self, source: AsyncIterator[Result]) -> Generator[Result, None, None]:
        """Yield the items of an asynchronous generator, which is closed with this one."""
        try:
            while (item := self.run(_next(source))) is not _END:
                yield item
        finally:
            close = getattr(source, "aclose", None)
            if close is not None:
                self.run(close())


_END: Any = object()


async def _next(source: AsyncIterator[Result]) -> Result:
    return await anext(source, _END)


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
