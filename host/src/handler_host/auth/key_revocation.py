"""Requests in progress, so that the end of a key or a session ends its open streams."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from handler_host.http import request_context
from handler_host.http.request_context import RequestContext
from handler_host.plugin.errors import Unauthorized

CHECK_INTERVAL_S = 1.0
"""Time between two checks while requests are in progress."""


class LiveRequests:
    """Tasks of requests, each with a check whether its key is still valid.

    ``refresh`` reads the keys again; it is awaited before each check.
    """

    def __init__(self, refresh: Callable[[], Awaitable[None]] | None = None) -> None:
        self._refresh = refresh
        self._tasks: dict[asyncio.Task[object], tuple[Callable[[], bool], RequestContext | None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._check: asyncio.Task[None] | None = None

    @contextmanager
    def track(self, is_valid: Callable[[], bool]) -> Iterator[None]:
        """Cancel the current task when ``is_valid`` no longer holds, until the block ends."""
        task = asyncio.current_task()
        assert task is not None, "a request runs in a task"
        self._tasks[task] = is_valid, request_context.current.get(None)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(CHECK_INTERVAL_S, self._start_check)
        try:
            yield
        finally:
            self._tasks.pop(task, None)

    def end_invalid(self) -> None:
        """Cancel the requests whose key or session has ended, except the current one."""
        current = asyncio.current_task()
        for task, (is_valid, context) in list(self._tasks.items()):
            if task is not current and not is_valid():
                if context is not None:
                    context.fail(Unauthorized("the key or session of this request has ended"))
                task.cancel()

    def _start_check(self) -> None:
        self._timer = None
        if self._tasks:
            self._check = asyncio.create_task(self._run_check(), name="check of the keys of open streams")

    async def _run_check(self) -> None:
        try:
            if self._refresh is not None:
                await self._refresh()
            self.end_invalid()
        finally:  # also after an error: the next check may succeed, and dates end keys without a new file
            if self._tasks and self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(CHECK_INTERVAL_S, self._start_check)
