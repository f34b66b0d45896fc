"""Repair of aiohttp: the reader of a body that its parser cannot continue gets an error.

aiohttp 3.14 closes the connection, but never tells the reader, and stops its timers: the call would wait for ever.
"""

from __future__ import annotations

from typing import Any


def repair_aiohttp() -> None:
    """Repair all aiohttp clients of this process; further calls do nothing."""
    from aiohttp import ClientPayloadError, helpers
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.http_exceptions import HttpProcessingError

    set_protocol_exception = ResponseHandler.set_exception
    if set_protocol_exception.__module__ == __name__:
        return

    def set_exception(self: Any, exc: BaseException, *cause: BaseException) -> None:
        body = self._payload
        set_protocol_exception(self, exc, *cause)
        if isinstance(exc, HttpProcessingError) and body is not None and not body.is_eof():
            reason = cause[0] if cause else exc
            helpers.set_exception(body, ClientPayloadError(f"Response payload is not completed: {reason!r}"), reason)

    ResponseHandler.set_exception = set_exception  # type: ignore[method-assign, assignment]
