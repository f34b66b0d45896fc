"""An event loop in a thread of its own, for tests that are not asynchronous."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Generator, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from typing import Any, Self, TypeVar

Result = TypeVar("Result")

TIMEOUT_S = 60.0
"""Seconds after which a waiting test fails: far more than any of them needs on a busy machine."""


class LoopThread:
    """Runs coroutines for code that is not asynchronous; a context manager."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="handler_host.testing", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(TimeoutError):
            self.run(_cancel_other_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT_S)
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def start(self, work: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Start a coroutine; cancelling the future cancels it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, Result], timeout_s: float = TIMEOUT_S) -> Result:
        """Run a coroutine and return its result; raises ``TimeoutError`` after ``timeout_s``."""
        future = self.start(work)
        try:
            return future.result(timeout_s)
        finally:
            future.cancel()

    @contextmanager
    def enter(self, manager: AbstractAsyncContextManager[Result]) -> Iterator[Result]:
        """Enter and leave an asynchronous context manager, in one task, as some demand."""
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

        holder = self.start(hold())
        try:
            yield entered.result(TIMEOUT_S)
        finally:
            self._loop.call_soon_threadsafe(leave.set)
            holder.result(TIMEOUT_S)

    def iterate(self, source: AsyncIterator[Result], timeout_s: float = TIMEOUT_S) -> Generator[Result, None, None]:
        """Yield the items of an asynchronous generator; closing the iterator closes the generator.

        Raises ``TimeoutError`` for an item that takes longer than ``timeout_s``.
        """
        try:
            while (item := self.run(_next(source), timeout_s)) is not _END:
                yield item
        finally:
            close = getattr(source, "aclose", None)
            if close is not None:
                self.run(close())


_END: Any = object()


async def _next(source: AsyncIterator[Result]) -> Result:
    return await anext(source, _END)


async def _cancel_other_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
