"""Runs the host on its own: the address, the signals, the first line on standard output."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import sys

import msgspec
from aiohttp import web

from host import log as logs
from host.app import SUPERVISOR, create_app
from host.auth import is_loopback
from host.config import Config, ServerConfig
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
    return asyncio.run(_serve(_with_admin_token(config)))


def _check_address(config: Config) -> None:
    """Refuse to serve other machines without keys."""
    if not config.auth.api_keys and not is_loopback(config.server.host):
        raise ConfigError(
            f"server.host = {config.server.host!r}: without API keys the host serves 127.0.0.1 only; "
            f"set {KEYS_VARIABLE}, or auth.api_keys in the file"
        )


def _with_admin_token(config: Config) -> Config:
    """Return the configuration with an admin token; one that is made here is shown once, and not in the log."""
    if config.auth.admin_token is not None:
        return config
    token = secrets.token_urlsafe(32)
    logs.redact([token])
    sys.stderr.write(f"admin token of this run: {token}  (set {TOKEN_VARIABLE} to choose your own)\n")
    sys.stderr.flush()
    return msgspec.structs.replace(config, auth=msgspec.structs.replace(config.auth, admin_token=hash_key(token)))


async def _serve(config: Config) -> int:
    app = create_app(config)
    # Without handler_cancellation aiohttp does not tell a handler that its client has left.
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=LAST_BYTES)
    await runner.setup()
    try:
        assert runner.server is not None
        listening = await _listen(Listener(runner.server, config.server), config.server)
        try:
            signals = _signals()
            _announce(listening, config)
            await app[SUPERVISOR].ready()
            await signals.get()
            await _drain(app[SUPERVISOR], signals)
        finally:
            listening.close()
    finally:
        await runner.cleanup()
    return 0


async def _listen(listener: Listener, config: ServerConfig) -> asyncio.Server:
    try:
        return await asyncio.get_running_loop().create_server(
            listener, config.host, config.port, backlog=min(config.max_connections, 1024), reuse_address=True
        )
    except OSError as error:
        raise ConfigError(
            f"server.host, server.port: cannot listen on {config.host}:{config.port}: {error.strerror or error}; "
            "stop who is there, or choose another port (0 takes a free one)"
        ) from error


def _announce(listening: asyncio.Server, config: Config) -> None:
    """Say where the host is: the first line on standard output, for programs to wait for."""
    host, port = listening.sockets[0].getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - told apart, not bound
    sys.stdout.write(f"ready http://{shown}:{port}\n")
    sys.stdout.flush()
    if not config.auth.api_keys:
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
