"""Connections for which no descriptor is left: they wait, and the log stays short."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket

import pytest

from handler_host.http.accept_errors import ACCEPT_FAILED, limit_accept_errors
from tests.support import until, within


async def test_connections_without_a_descriptor_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    limit_accept_errors(loop)
    accepted = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        writer.close()

    caplog.set_level(logging.WARNING)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        with socket.socket() as client:
            client.setblocking(False)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
            try:
                await loop.sock_connect(client, server.sockets[0].getsockname())
                await until(lambda: bool(caplog.records))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
            await within(accepted.wait())
    (record,) = caplog.records
    assert record.getMessage() == "new connections must wait: Too many open files; raise ulimit -n"


async def test_other_errors_of_the_loop_are_logged_as_before(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    limit_accept_errors(loop)
    loop.call_exception_handler({"message": "another error"})
    assert "another error" in caplog.text


async def test_want_of_memory_has_its_own_remedy(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    limit_accept_errors(loop)
    error = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    loop.call_exception_handler({"message": ACCEPT_FAILED, "exception": error})
    assert caplog.messages == ["new connections must wait: Cannot allocate memory; free memory"]
