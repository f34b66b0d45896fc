"""Runs the host on its own: the address, the signals, the first line on standard output."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
from aiohttp import web

from host import log as logs
from host.app import SUPERVISOR, create_app
from host.auth import is_loopback
from host.config import Config, ServerConfig, with_state_file
from host.config_loader import KEYS_VARIABLE, TOKEN_VARIABLE, hash_key
from host.errors import ConfigError
from host.listener import Listener
from host.supervisor import Supervisor

log = logging.getLogger(__name__)

LAST_BYTES = 1.0
"""Seconds that answers get to be sent when all handlers have ended."""


def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status. Raises :class:`ConfigError` before it serves."""
    logs.setup(config.log)
    _check_address(config)
    made = None
    if config.auth.admin_token is None:
        made = secrets.token_urlsafe(32)
        logs.redact([made])
        config = msgspec.structs.replace(config, auth=msgspec.structs.replace(config.auth, admin_token=hash_key(made)))
    return asyncio.run(_serve(with_state_file(config, os.environ), made))


def _check_address(config: Config) -> None:
    """Refuse to serve other machines without keys."""
    if config.auth.open and not is_loopback(config.server.host):
        raise ConfigError(
            f"server.host = {config.server.host!r}: without API keys the host serves 127.0.0.1 only; "
            f"set {KEYS_VARIABLE}, or auth.consumers_file in the file"
        )


async def _serve(config: Config, made_token: str | None) -> int:
    async with serving(config) as (supervisor, url):
        signals = _signals()
        _announce(url, config, made_token)
        await supervisor.ready()
        # What has been imported stays. Out of the collector's sight, it makes no collection slow, and none rare:
        # Python puts full ones off until a quarter of all that lives is new (measured: 1 MB more at 1,000 cycles).
        gc.collect()
        gc.freeze()
        await signals.get()
        await _drain(supervisor, signals)
    return 0


@asynccontextmanager
async def serving(config: Config) -> AsyncIterator[tuple[Supervisor, str]]:
    """Serve while the block runs; give the supervisor and the URL.

    Raises :class:`ConfigError` if the address cannot be had. At the end of the
    block what is still under way gets ``server.drain_timeout``.
    """
    app = create_app(config)
    # Without handler_cancellation aiohttp does not tell a handler that its client has left.
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=LAST_BYTES)
    await runner.setup()
    try:
        assert runner.server is not None
        listening = await _listen(Listener(runner.server, config.server), config.server)
        try:
            async with AsyncExitStack() as stack:
                if config.admin.listen is not None:
                    from host.admin_address import listening_for_operators  # few have one

                    listener = Listener(runner.server, config.server, admin=True)
                    await stack.enter_async_context(listening_for_operators(config.admin.listen, listener))
                yield app[SUPERVISOR], _url_of(listening)
        finally:
            listening.close()
    finally:
        await runner.cleanup()


async def _listen(listener: Listener, config: ServerConfig) -> asyncio.Server:
    try:
        return await asyncio.get_running_loop().create_server(
            listener, config.host, config.port, backlog=min(config.max_connections, 1024), reuse_address=True
        )
    except OSError as error:
        # asyncio's own text has the address once more; that of a name that nobody knows has a number of its own.
        reason = str(error.strerror) if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise ConfigError(
            f"server.host, server.port: cannot listen on {config.host}:{config.port}: {reason}; "
            "stop who is there, or choose another port (0 takes a free one)"
        ) from error


def _url_of(listening: asyncio.Server) -> str:
    """Return where the host is found on this machine."""
    host, port = listening.sockets[0].getsockname()[:2]
    name = _LOOPBACK_OF.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


_LOOPBACK_OF = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - to tell them apart; nothing is bound here


def _announce(url: str, config: Config, made_token: str | None) -> None:
    """Say where the host is: the first line on standard output, for programs to wait for.

    An admin token that was made for this run is shown before, once, and not in the log.
    """
    if made_token is not None:
        sys.stderr.write(f"admin token of this run: {made_token}  (set {TOKEN_VARIABLE} to choose your own)\n")
        sys.stderr.flush()
    sys.stdout.write(f"ready {url}\n")
    sys.stdout.flush()
    if config.auth.open:
        log.warning("no API keys: everybody on this machine may call the handlers (set %s)", KEYS_VARIABLE)


def _signals() -> asyncio.Queue[signal.Signals]:
    """Return the queue of the signals that ask the host to stop."""
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, number)
    return signals


async def _drain(supervisor: Supervisor, signals: asyncio.Queue[signal.Signals]) -> None:
    """Refuse new work, let end what is under way, for ``server.drain_timeout`` or until a second signal."""
    closing = asyncio.create_task(supervisor.close(), name="shutdown")
    again = asyncio.create_task(signals.get(), name="second signal")
    await asyncio.wait({closing, again}, return_when=asyncio.FIRST_COMPLETED)
    if not closing.done():
        log.warning("a second signal: what is under way is ended now")
        supervisor.hurry()
    again.cancel()
    await closing
