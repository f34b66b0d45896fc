"""Standalone server process: address, signals, the first line on standard output."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from handler_host._internal import log as logs
from handler_host._internal.environ_block import clear_environ
from handler_host._internal.standard_streams import discard_output
from handler_host._internal.threads import is_refused, start_threads
from handler_host.app import SUPERVISOR, create_app
from handler_host.auth.sessions import derive_key
from handler_host.config import Config, ServerConfig, kept_state_file, with_state_file
from handler_host.config.listen import is_loopback
from handler_host.config.loader import KEYS_VARIABLE, TOKEN_VARIABLE, hash_key, load_config, take_keys
from handler_host.http.accept_errors import limit_accept_errors
from handler_host.http.access_log import ACCESS_LOG
from handler_host.http.listen_address import tls_options, url_of, why_not_listening
from handler_host.http.listener import Listener
from handler_host.lifecycle.supervisor import Supervisor
from handler_host.memory.cgroups import OOM_GROUP_ADVICE, find_oom_group
from handler_host.plugin.errors import ConfigError
from handler_host.signals import ConfigReloader, SignalHandler
from handler_host.workers.environment import is_kept_variable

if TYPE_CHECKING:
    import socket
    import ssl

    from handler_host.auth.file_flaws import FileFlaw
    from handler_host.http.tls import TlsCertificate

log = logging.getLogger(__name__)

TOKEN_FILE = "admin-token"  # noqa: S105 - the name of a file
"""Name of the file with an admin token that was generated for one run."""
LAST_BYTES = 1.0
"""Seconds to send the last bytes of responses after all handlers have ended."""


ConfigReader = Callable[[Mapping[str, str], Mapping[str, Any]], Config]
"""Returns the current configuration for an environment without keys, and the hashes of the keys."""


def run(config: Config, read_config: ConfigReader | None = None) -> int:
    """Serve until SIGTERM or SIGINT and return the exit status.

    ``read_config`` returns the current configuration for SIGHUP; by default it reads the file of ``config`` and
    the environment again. The environment is removed from this process, and kept for reloads and workers. Raises
    :class:`ConfigError` before it serves.
    """
    logs.setup(config.log)
    read_config = read_config or (
        lambda environ, key_hashes: load_config(config.source, environ, overrides=key_hashes).config
    )
    environ = dict(os.environ)
    sockets = _take_sockets(environ)
    _check_address(config, sockets)
    certificate = _certificate(config.server)
    token = environ.get(TOKEN_VARIABLE, "").strip()
    key_hashes = take_keys(environ)
    generated_token = None
    if config.auth.admin_token is None:
        token = generated_token = secrets.token_urlsafe(32)
        logs.register_secrets([generated_token])
        auth = msgspec.structs.replace(config.auth, admin_token=hash_key(generated_token))
        config = msgspec.structs.replace(config, auth=auth)
    reload_config = functools.partial(_reload_config, read_config, environ, key_hashes, certificate)
    config = with_state_file(config, environ)
    host = serving(config, environ, _session_key(config, token), certificate, sockets)
    return _run_loop(_serve(host, config, environ, generated_token, reload_config))


def _run_loop(serving: Coroutine[Any, Any, int]) -> int:
    """Run an event loop until ``serving`` returns; return its result. Raises ``ConfigError`` without threads."""
    status = None

    async def serve() -> None:
        nonlocal status
        status = await serving

    try:
        asyncio.run(serve())
    except RuntimeError as error:
        if not is_refused(error):
            raise
        if status is None:
            text = "the system refused a thread; raise ulimit -u, or the limit of processes of the container"
            raise ConfigError(text) from error
        # Refused at the end, for the thread in which asyncio waits for those of the pool.
    assert status is not None, "the loop has run until the end"
    return status


def _take_sockets(environ: dict[str, str]) -> list[socket.socket]:
    if "LISTEN_FDS" not in environ:
        return []
    from handler_host.http.socket_activation import take_sockets  # few hosts are started by a socket unit

    return take_sockets(environ)


def _certificate(config: ServerConfig) -> TlsCertificate | None:
    if config.tls_cert is None and config.tls_key is None:
        return None
    from handler_host.http.tls import load_certificate  # most hosts are behind a proxy

    return load_certificate(config)


def _session_key(config: Config, token: str) -> bytes | None:
    """Return the key of the dashboard's cookies, if the admin token is known in clear.

    A file has its hash only, which must not be enough to sign a cookie: then each run has a key of its own.
    """
    return derive_key(token) if token and hash_key(token) == config.auth.admin_token else None


def _reload_config(
    read_config: ConfigReader,
    environ: Mapping[str, str],
    key_hashes: Mapping[str, Any],
    certificate: TlsCertificate | None,
) -> Config:
    config = with_state_file(read_config(environ, key_hashes), environ)
    if certificate is not None:
        certificate.reload()
    return config


def _check_address(config: Config, sockets: Sequence[socket.socket]) -> None:
    """Refuse to serve other machines without keys, or with keys that are easy to guess."""
    if sockets:
        from handler_host.http.socket_activation import with_addresses_of  # see _take_sockets

        config = with_addresses_of(config, sockets)
    if is_loopback(config.server.host) and config.admin.listen is None and not config.server.listen:
        return
    from handler_host.auth.access_flaws import find_address_flaws  # a host for this machine alone does not need it

    if flaws := list(find_address_flaws(config, os.environ)):
        raise ConfigError("\n".join(flaws))


def _protect_memory() -> None:
    from handler_host.workers.host_memory import protect_memory  # imports ctypes, which an idle host does not need

    protect_memory()


def _find_file_flaws(config: Config, environ: Mapping[str, str]) -> list[FileFlaw]:
    from handler_host.auth.file_flaws import find_file_flaws

    return list(find_file_flaws(config, environ))


def _clear_environ(config: Config) -> None:
    """Remove from this process what workers do not get either, unless plugins run in it and may read it."""
    if not _has_inline_handlers(config):
        clear_environ(is_kept_variable)


def _has_inline_handlers(config: Config) -> bool:
    isolations = [config.defaults.isolation, *(keys.get("isolation") for keys in config.handlers.values())]
    return "inline" in isolations


async def _serve(
    host: AbstractAsyncContextManager[tuple[Supervisor, str]],
    config: Config,
    environ: Mapping[str, str],
    generated_token: str | None,
    reload_config: ConfigReloader,
) -> int:
    loop = asyncio.get_running_loop()
    if not _has_inline_handlers(config):  # their functions run in asyncio's threads, and may occupy all of these
        loop.set_default_executor(start_threads())
    limit_accept_errors(loop)
    async with host as (supervisor, url):
        _clear_environ(config)
        if config.workers.confine != "off" and sys.platform == "linux":
            supervisor.prepare_before_launch(_protect_memory)
        signals = SignalHandler(supervisor, reload_config)
        tasks: list[asyncio.Task[object]] = [asyncio.create_task(signals.run(), name="signals")]
        if os.getpid() == 1:
            from handler_host.workers.orphan_reaper import reap_orphans  # only a container has this process ID here

            tasks.append(asyncio.create_task(reap_orphans(), name="orphan reaper"))
        _announce(url, config, generated_token)
        await supervisor.ready()
        oom_group = await asyncio.to_thread(find_oom_group)
        if oom_group is not None:
            log.warning("%s is 1: %s", oom_group, OOM_GROUP_ADVICE)
        for flaw in await asyncio.to_thread(_find_file_flaws, config, environ):
            log.warning("%s: %s", flaw.setting, flaw.text)
        # Imported objects stay until the end. Frozen, they slow no collection down and delay none: Python postpones
        # full collections until a quarter of all live objects is new (1 MB more after 1,000 cycles without this).
        gc.collect()
        gc.freeze()
        verifying = asyncio.create_task(_verified(supervisor, environ, signals.stops), name="check of the deploy")
        await signals.stops.get()
        await _delay_shutdown(supervisor, signals.stops)
        failed = verifying.done() and not verifying.cancelled() and verifying.result() is False
        tasks.append(verifying)
        for task in tasks:
            task.cancel()
        await _drain(supervisor, signals.stops)
        await asyncio.gather(*tasks, return_exceptions=True)
    return 1 if failed else 0


async def _verified(supervisor: Supervisor, environ: Mapping[str, str], stops: asyncio.Queue[signal.Signals]) -> bool:
    """Check a new deploy; return False and stop the host if the check failed and ``verify.on_failure`` demands it."""
    config = supervisor.config
    if config.verify.when == "never" or (
        config.verify.when == "deploy" and not any(map(environ.get, config.verify.commit_variables))
    ):
        return True
    from handler_host.lifecycle import verification  # costs no memory on hosts without anything to verify

    commit = verification.commit_of(config.verify, environ)
    if commit is None:
        return True
    try:
        report = await verification.verify(supervisor, commit, verification.flag_file(config, environ))
        passed = report.state != "failed"
    except Exception:
        log.exception("a defect of the host: this deploy could not be checked")
        passed = False
    if passed or config.verify.on_failure == "continue":
        return True
    stops.put_nowait(signal.SIGTERM)
    return False


@asynccontextmanager
async def serving(
    config: Config,
    environ: Mapping[str, str] | None = None,
    session_key: bytes | None = None,
    certificate: TlsCertificate | None = None,
    sockets: Sequence[socket.socket] = (),
) -> AsyncIterator[tuple[Supervisor, str]]:
    """Serve while the block runs; yield the supervisor and the URL.

    ``environ`` has the secrets; by default it is that of the process. ``session_key`` is that of
    :func:`handler_host.app.create_app`. Open ``sockets`` take the place of ``server.host`` and ``server.port``.
    Raises :class:`ConfigError` if the address is not available. At the end of the block, dispatches in flight get
    ``server.drain_timeout``.
    """
    app = create_app(config, environ=environ, session_key=session_key)
    # Without handler_cancellation aiohttp does not cancel a handler when its client disconnects.
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=LAST_BYTES)
    await runner.setup()
    try:
        assert runner.server is not None
        context = certificate.context if certificate is not None else None
        async with AsyncExitStack() as stack:
            listener = Listener(runner.server, config.server, app[ACCESS_LOG])
            if sockets:
                from handler_host.http.socket_activation import serving_sockets  # see _take_sockets

                url = await stack.enter_async_context(serving_sockets(sockets, listener, context))
            else:
                url = await stack.enter_async_context(_listening(listener, config.server, context))
            addresses = [(listen, False) for listen in config.server.listen]
            if config.admin.listen is not None:
                addresses.append((config.admin.listen, True))
            for listen, is_admin in addresses:
                from handler_host.http.further_listener import further_listener  # few hosts have one

                listener = Listener(runner.server, config.server, app[ACCESS_LOG], admin=is_admin)
                await stack.enter_async_context(further_listener(listen, listener, context))
            yield app[SUPERVISOR], url
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _listening(listener: Listener, config: ServerConfig, context: ssl.SSLContext | None) -> AsyncIterator[str]:
    """Listen at ``server.host`` while the block runs; yield the URL."""
    try:
        server = await asyncio.get_running_loop().create_server(
            listener,
            config.host,
            config.port,
            backlog=min(config.max_connections, 1024),
            reuse_address=True,
            **tls_options(context),
        )
    except OSError as error:
        raise ConfigError(
            f"server.host, server.port: cannot listen on {config.host}:{config.port}: {why_not_listening(error)}; "
            "stop the process that listens there, or choose another port (0 picks a free one)"
        ) from error
    try:
        yield url_of(*server.sockets[0].getsockname()[:2], is_tls=context is not None)
    finally:
        server.close()


def _announce(url: str, config: Config, generated_token: str | None) -> None:
    """Print the URL as the first line on standard output, for programs to wait for.

    An admin token that was generated for this run is shown before it on a terminal, and is in a file otherwise: then
    standard error is likely kept as the log.
    """
    if generated_token is not None:
        with suppress(OSError):
            place = generated_token if sys.stderr.isatty() else _write_token(config, generated_token)
            sys.stderr.write(f"admin token of this run: {place}  (set {TOKEN_VARIABLE} to choose your own)\n")
            sys.stderr.flush()
    try:
        sys.stdout.write(f"ready {url}\n")
        sys.stdout.flush()
    except OSError as error:
        discard_output()
        log.warning("standard output: %s; the host is ready at %s", error.strerror, url)
    if config.auth.open:
        log.warning("no API keys: all users of this machine may call the handlers (set %s)", KEYS_VARIABLE)


def _write_token(config: Config, token: str) -> str:
    """Write the admin token to a file of this user beside the state file; return where it is."""
    state_file = kept_state_file(config.memory)
    if state_file is None:
        return "not shown, as there is neither a terminal nor a state file"
    path = state_file.with_name(TOKEN_FILE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # another owner, a link or other rights must not stay
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        return f"not shown: standard error is not a terminal, and {path} cannot be written ({error.strerror})"
    with os.fdopen(descriptor, "w") as file:
        file.write(token + "\n")
    return f"in the file {path}"


async def _delay_shutdown(supervisor: Supervisor, signals: asyncio.Queue[signal.Signals]) -> None:
    """Be not ready, but serve, for ``server.shutdown_delay`` or until a second signal."""
    delay_s = supervisor.config.server.shutdown_delay
    if not delay_s:
        return
    supervisor.stopping_soon = True
    log.info("shutdown begins after server.shutdown_delay", extra={"fields": {"seconds": delay_s}})
    with suppress(TimeoutError):
        async with asyncio.timeout(delay_s):
            await signals.get()


async def _drain(supervisor: Supervisor, signals: asyncio.Queue[signal.Signals]) -> None:
    """Refuse new work and finish dispatches in flight, for ``server.drain_timeout`` or until a second signal."""
    closing = asyncio.create_task(supervisor.close(), name="shutdown")
    second_signal = asyncio.create_task(signals.get(), name="second signal")
    await asyncio.wait({closing, second_signal}, return_when=asyncio.FIRST_COMPLETED)
    if not closing.done():
        log.warning("second signal: dispatches in flight are ended now")
        supervisor.force_shutdown()
    second_signal.cancel()
    await closing
