"""Runs the host on its own: the address, the signals, the first line on standard output."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import msgspec
from aiohttp import web

from handler_host._internal import log as logs
from handler_host._internal.standard_streams import discard_output
from handler_host.app import SUPERVISOR, create_app
from handler_host.config import Config, ServerConfig, with_state_file
from handler_host.config.loader import KEYS_VARIABLE, TOKEN_VARIABLE, hash_key, load_config
from handler_host.http.client_address import is_loopback
from handler_host.http.listener import Listener
from handler_host.lifecycle.supervisor import Supervisor
from handler_host.plugin.errors import ConfigError
from handler_host.signals import ConfigReloader, SignalHandler

log = logging.getLogger(__name__)

LAST_BYTES = 1.0
"""Seconds that answers get to be sent when all handlers have ended."""


def run(config: Config, reread: ConfigReloader | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status. Raises :class:`ConfigError` before it serves.

    ``reread`` returns the configuration as it stands now, for SIGHUP; the default is that of the
    file of ``config`` and the environment.
    """
    logs.setup(config.log)
    reread = reread or functools.partial(_again, config.source)
    _check_address(config)
    made = None
    if config.auth.admin_token is None:
        made = secrets.token_urlsafe(32)
        logs.register_secrets([made])
        config = msgspec.structs.replace(config, auth=msgspec.structs.replace(config.auth, admin_token=hash_key(made)))
    again = functools.partial(_with_state_file, reread)
    return asyncio.run(_serve(with_state_file(config, os.environ), made, again))


def _again(source: Path | None) -> Config:
    return load_config(source, os.environ).config


def _with_state_file(reread: ConfigReloader) -> Config:
    return with_state_file(reread(), os.environ)


def _check_address(config: Config) -> None:
    """Refuse to serve other machines without keys."""
    if config.auth.open and not is_loopback(config.server.host):
        raise ConfigError(
            f"server.host = {config.server.host!r}: without API keys the host serves 127.0.0.1 only; "
            f"set {KEYS_VARIABLE}, or auth.consumers_file in the file"
        )


async def _serve(config: Config, made_token: str | None, reread: ConfigReloader) -> int:
    async with serving(config) as (supervisor, url):
        signals = SignalHandler(supervisor, reread)
        tasks: list[asyncio.Task[object]] = [asyncio.create_task(signals.run(), name="signals")]
        if os.getpid() == 1:
            from handler_host.workers.orphan_reaper import reap_orphans  # only a container has this process ID here

            tasks.append(asyncio.create_task(reap_orphans(), name="orphan reaper"))
        _announce(url, config, made_token)
        await supervisor.ready()
        # What has been imported stays. Out of the collector's sight, it makes no collection slow, and none rare:
        # Python puts full ones off until a quarter of all that lives is new (measured: 1 MB more at 1,000 cycles).
        gc.collect()
        gc.freeze()
        verifying = asyncio.create_task(_verified(supervisor, signals.stops), name="check of the deploy")
        await signals.stops.get()
        failed = verifying.done() and not verifying.cancelled() and verifying.result() is False
        tasks.append(verifying)
        for task in tasks:
            task.cancel()
        await _drain(supervisor, signals.stops)
        await asyncio.gather(*tasks, return_exceptions=True)
    return 1 if failed else 0


async def _verified(supervisor: Supervisor, stops: asyncio.Queue[signal.Signals]) -> bool:
    """Check this deploy, if it is a new one; return False, and end the host, if it failed and is configured to."""
    config = supervisor.config
    if config.verify.when == "never" or (
        config.verify.when == "deploy" and not any(map(os.environ.get, config.verify.commit_variables))
    ):
        return True
    from handler_host.lifecycle import verification  # nothing of it is in memory where there is nothing to verify

    commit = verification.commit_of(config.verify, os.environ)
    if commit is None:
        return True
    try:
        report = await verification.verify(supervisor, commit, verification.flag_file(config, os.environ))
        passed = report.state != "failed"
    except Exception:
        log.exception("a defect of the host: this deploy could not be checked")
        passed = False
    if passed or config.verify.on_failure == "continue":
        return True
    stops.put_nowait(signal.SIGTERM)
    return False


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
                    from handler_host.http.admin_listener import admin_listener  # few hosts have one

                    listener = Listener(runner.server, config.server, admin=True)
                    await stack.enter_async_context(admin_listener(config.admin.listen, listener))
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
        with suppress(OSError):
            sys.stderr.write(f"admin token of this run: {made_token}  (set {TOKEN_VARIABLE} to choose your own)\n")
            sys.stderr.flush()
    try:
        sys.stdout.write(f"ready {url}\n")
        sys.stdout.flush()
    except OSError as error:
        discard_output()
        log.warning("standard output: %s; the host is ready at %s", error.strerror, url)
    if config.auth.open:
        log.warning("no API keys: everybody on this machine may call the handlers (set %s)", KEYS_VARIABLE)


async def _drain(supervisor: Supervisor, signals: asyncio.Queue[signal.Signals]) -> None:
    """Refuse new work, let end what is under way, for ``server.drain_timeout`` or until a second signal."""
    closing = asyncio.create_task(supervisor.close(), name="shutdown")
    again = asyncio.create_task(signals.get(), name="second signal")
    await asyncio.wait({closing, again}, return_when=asyncio.FIRST_COMPLETED)
    if not closing.done():
        log.warning("a second signal: what is under way is ended now")
        supervisor.force_shutdown()
    again.cancel()
    await closing
