"""The worker process: prepared, given one handler, and served until the host stops it.

``python -m handler_host.workers.runtime.process FD PARENT`` starts one in a fresh interpreter; the fork
server calls :func:`main` in a forked one. The first frame on the socket names the handler to load.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn

from handler_host.channel import frames
from handler_host.plugin.context import Context, Secret
from handler_host.workers.host_signals import ignore_host_signals
from handler_host.workers.process_exit import exit_process
from handler_host.workers.runtime.confinement import adopt_descendants, confine
from handler_host.workers.runtime.file_rules import packages_without_bytecode
from handler_host.workers.runtime.host_connection import HostConnection
from handler_host.workers.runtime.loading import Handler, LoadError, load, load_error
from handler_host.workers.runtime.process_setup import (
    add_import_paths,
    apply_environment,
    apply_limits,
    prepare_forked_children,
    reduced_gc,
    send_log_to_host,
    send_output_by_line,
    set_oom_score_and_pdeathsig,
)

ORPHAN_GRACE = 1.0
"""Seconds that an inline worker has to deactivate after the host has closed its channel."""

MANY_PACKAGES = 10
"""Packages without bytecode, as installers like uv leave them; fewer are plugins in development."""
FILES_HINT = "; a confined worker reads and writes few files: see read_paths and write_paths"


def main(fd: int, parent: int | None = None) -> NoReturn:
    """Run a worker on the socket ``fd`` and end the process.

    ``parent`` is the process ID of the parent, with which the worker must end.
    """
    code = 1
    try:
        ignore_host_signals()
        set_oom_score_and_pdeathsig(parent)
        # A process that the plugin starts must not be able to write into the channel, nor keep it open.
        os.set_inheritable(fd, False)
        random.seed()
        code = asyncio.run(serve(socket.socket(fileno=fd)))
    except BaseException:
        # To standard error: the log needs the event loop, which has ended.
        traceback.print_exc()
        raise
    finally:
        exit_process(code)


async def serve(sock: socket.socket, *, inline: bool = False) -> int:
    """Load and serve the handler that the first frame names; return the exit status.

    ``inline`` leaves the environment, the signals and the log of this process unchanged.
    """
    fd = sock.fileno()
    transport, host = await asyncio.get_running_loop().create_unix_connection(HostConnection, sock=sock)
    return await serve_connection(transport, host, fd, inline=inline)


async def serve_connection(
    transport: asyncio.BaseTransport,
    host: HostConnection,
    fd: int,
    *,
    inline: bool = False,
    on_confined: Callable[[], None] | None = None,
) -> int:
    """Load and serve the handler that the first frame names, over an open connection with the socket ``fd``.

    ``on_confined`` is called before the handler is loaded; threads must not start before.
    """
    try:
        start = await _receive_start(host)
        if start is None:
            return 1
        if not inline:
            _prepare_process(start.spec, host, fd)
        # Inline, the host's own modules keep precedence over a plugin's.
        add_import_paths(start.spec.paths, first=not inline)
        uncompiled: tuple[str, ...] = ()
        if start.spec.lean is not None and not inline:
            uncompiled = _make_imports_lazy(start.spec.lean, host)
        context = _make_context(start, host)
        confinement: tuple[str, ...] = ()
        try:
            confinement = _confine(start.spec) if not inline else ()
            if on_confined is not None:
                on_confined()
            with nullcontext() if inline else reduced_gc():
                await _activate(start.spec, context, host, uncompiled, confinement)
        except LoadError as error:
            is_refused = "files" in confinement and isinstance(error.__cause__, PermissionError)
            reason = error.reason + FILES_HINT if is_refused else error.reason
            host.send(
                frames.Failed(reason, error.trace, error.out_of_memory, error.out_of_resources, error.is_retryable)
            )
            await host.drain()
            return 1
        grace = await _wait_for_stop(host, inline)
        await _deactivate(host, context, grace)
        return 0
    finally:
        transport.close()


async def _receive_start(host: HostConnection) -> frames.Start | None:
    """Return the first frame, or None if the host is gone before it."""
    try:
        return await host.started
    except asyncio.CancelledError:
        if host.disconnected.is_set():
            return None
        raise


def _prepare_process(spec: frames.WorkerSpec, host: HostConnection, fd: int) -> None:
    apply_environment(spec)
    apply_limits(spec)
    send_log_to_host(spec, host.send)
    send_output_by_line()
    prepare_forked_children(fd, host.note_fork)


def _confine(spec: frames.WorkerSpec) -> tuple[str, ...]:
    """Confine this process before it runs code of the plugin, and return the measures that are in force.

    Raises :class:`LoadError` where all of them must be, and cannot.
    """
    adopt_descendants()
    if spec.confine == "off":
        return ()
    confinement = confine(spec)
    if confinement.missing:
        reasons = "; ".join(confinement.missing)
        if spec.confine == "strict":
            raise LoadError(f'this worker cannot be confined: {reasons}; set workers.confine = "auto"')
        logging.getLogger(spec.handler).debug("not confined: %s", reasons)
    return confinement.measures


def _make_imports_lazy(lean: frames.LeanImports, host: HostConnection) -> tuple[str, ...]:
    """Return the packages that stay eager because they are not compiled."""
    from handler_host.workers.runtime.lean_imports import install_lean_imports  # only for handlers that are lean

    return install_lean_imports(lean, host.send)


def _make_context(start: frames.Start, host: HostConnection) -> Context:
    spec = start.spec
    return Context(
        handler=spec.handler,
        generation=start.generation,
        config=spec.config,
        secrets={name: Secret(value) for name, value in spec.secrets.items()},
        log=logging.getLogger(spec.handler),
        _data_dir=Path(spec.data_dir) if spec.data_dir is not None else None,
        _transport=host.handler_calls,
    )


async def _activate(
    spec: frames.WorkerSpec,
    context: Context,
    host: HostConnection,
    uncompiled: tuple[str, ...],
    confinement: tuple[str, ...],
) -> None:
    """Load the handler, run its activate hook, and report that it is ready; raises :class:`LoadError`."""
    started_at = time.monotonic()
    handler = load(spec)
    imported_at = time.monotonic()
    if "files" in confinement and len(names := packages_without_bytecode()) >= MANY_PACKAGES:
        context.log.warning(
            "%d packages have no bytecode (%s, ...), so each activation is slow; run `python -m compileall -q %s`",
            len(names),
            ", ".join(names[:3]),
            sys.prefix,
        )
    await _run_activate_hook(handler, context)
    host.serve(handler, lambda: handler.run_hook("health", context))
    context.on_close(lambda: handler.run_hook("deactivate", context))
    host.send(
        frames.Ready(
            protocol=frames.PROTOCOL_VERSION,
            operations=tuple(operation.info for operation in handler.operations.values()),
            import_seconds=imported_at - started_at,
            activate_seconds=time.monotonic() - imported_at,
            uncompiled=uncompiled,
            confinement=confinement,
        )
    )


async def _run_activate_hook(handler: Handler, context: Context) -> None:
    try:
        await handler.run_hook("activate", context)
    except BaseException as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise  # the host kills an inline worker; a CancelledError without that is the plugin's own
        raise load_error("activate failed", error) from error


async def _wait_for_stop(host: HostConnection, inline: bool) -> float:
    """Return the seconds that the host gives for deactivation; if the host is gone, kill this process group."""
    try:
        return await host.stopping
    except asyncio.CancelledError:
        if not host.disconnected.is_set():
            raise
        if not inline:
            # Nothing else ends the processes that this worker has started.
            os.killpg(os.getpgrp(), signal.SIGKILL)
        return ORPHAN_GRACE


async def _deactivate(host: HostConnection, context: Context, grace: float) -> None:
    """Cancel all calls and close the handler, within ``grace`` seconds."""
    try:
        async with asyncio.timeout(grace):
            await host.cancel_calls()
            await context.close()
    except TimeoutError:
        context.log.warning("deactivation did not end within %g s (stop_grace)", grace)
    await host.drain()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
