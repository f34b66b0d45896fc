"""The worker process: made safe, given one handler, served until it is told to stop.

``python -m handler_host.workers.runtime.process FD`` starts one in a fresh interpreter; the fork server
calls :func:`main` in a forked one. The first frame on the socket says which handler
to load.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import signal
import site
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from handler_host.channel import frames
from handler_host.plugin.context import Context, Secret
from handler_host.workers.runtime.loading import LoadError, failed, load
from handler_host.workers.runtime.log_bridge import LogBridge
from handler_host.workers.runtime.runtime import Runtime

CHATTY = ("httpx", "httpx2")
"""Loggers of libraries below the SDKs that write a line at ``info`` for each request."""
LOADING_THRESHOLD = 500_000
"""New objects before the collector looks for garbage while a handler is loaded, where Python's own number is 700.

More than the import of any SDK here makes: of that, the collector takes 9 to 20 % of the processor time and
finds next to nothing. Yet not without a bound, as a handler may do anything in its activation.
"""

TERM_GRACE = 1.0
"""Seconds that a worker takes to deactivate on SIGTERM."""


def main(fd: int, parent: int | None = None) -> None:
    """Run a worker on the socket ``fd`` and end the process; never returns.

    ``parent`` is the process with which the worker has to die; it is checked, as
    it may have died before the kernel was told.
    """
    code = 1
    try:
        set_oom_score_and_pdeathsig(parent)
        # What a plugin starts must not be able to write into the channel, nor hold it open.
        os.set_inheritable(fd, False)
        random.seed()
        code = asyncio.run(serve(socket.socket(fileno=fd)))
    except BaseException:
        # Not by the log: it goes over the loop, which has ended.
        traceback.print_exc()
        raise
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        # No interpreter shutdown: it takes time, and nothing of it is wanted.
        os._exit(code)


def set_oom_score_and_pdeathsig(parent: int | None) -> None:
    """Make the kernel take this process with its parent, and before others when memory is short."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
    if parent is None:
        return
    set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def set_parent_death_signal(number: int) -> None:
    """Let the kernel send this process a signal when its parent ends (Linux; elsewhere without effect)."""
    if sys.platform != "linux":
        return
    import ctypes  # only here: the host itself does without

    PR_SET_PDEATHSIG = 1  # noqa: N806 - the kernel's name
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


async def serve(sock: socket.socket, *, inline: bool = False) -> int:
    """Load and serve the handler that the first frame names; return the exit status.

    ``inline`` leaves the process as it is: its environment, its signals, its log.
    """
    loop, fd = asyncio.get_running_loop(), sock.fileno()
    transport, runtime = await loop.create_unix_connection(Runtime, sock=sock)
    try:
        try:
            start = await runtime.started
        except asyncio.CancelledError:
            if runtime.lost.is_set():
                return 1
            raise
        if not inline:
            loop.add_signal_handler(signal.SIGTERM, runtime.stop, TERM_GRACE)
            _apply_spec(start.spec, runtime)
            os.register_at_fork(after_in_child=lambda: _detach_after_fork(fd, runtime))
        # Inline, what the host itself imports stays stronger than what a plugin brings.
        _add_paths(start.spec.paths, first=not inline)
        context = _context(start, runtime)
        try:
            with nullcontext() if inline else reduced_gc():
                await _activate(start.spec, context, runtime)
        except LoadError as error:
            runtime.send(frames.Failed(error.reason, error.trace, error.out_of_memory))
            await runtime.written()
            return 1
        return await _until_stopped(runtime, context, inline)
    finally:
        transport.close()


def _apply_spec(spec: frames.WorkerSpec, runtime: Runtime) -> None:
    """Take on the environment and the log of the handler."""
    os.environ.clear()
    os.environ.update(spec.environment)
    os.environ.update(spec.secrets)
    if hasattr(time, "tzset"):
        time.tzset()
    if spec.oom_score_adj != 500:
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(spec.oom_score_adj))
    if spec.memory_hard_limit is not None:
        import resource  # only where there is a limit

        resource.setrlimit(resource.RLIMIT_DATA, (spec.memory_hard_limit, spec.memory_hard_limit))
    logging.basicConfig(level=spec.log_level, handlers=[LogBridge(runtime.send)], format="%(message)s", force=True)
    logging.captureWarnings(True)
    if spec.log_level > logging.DEBUG:
        for name in CHATTY:
            logging.getLogger(name).setLevel(max(spec.log_level, logging.WARNING))


def _detach_after_fork(fd: int, runtime: Runtime) -> None:
    """Part with the channel, in a process that the plugin has forked: its calls are the parent's.

    What the child may do is to exec, or to exit; one that comes back to the event loop is ended there.
    """
    runtime.forked = True
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, fd, inheritable=False)
    os.close(nothing)


def _add_paths(paths: tuple[str, ...], *, first: bool) -> None:
    """Add directories to the import path, as site directories, so that editable installs in them are found."""
    for path in reversed(paths):
        before = list(sys.path)
        site.addsitedir(path)
        added = [entry for entry in sys.path if entry not in before]
        sys.path[:] = [*added, *before] if first else [*before, *added]


def _context(start: frames.Start, runtime: Runtime) -> Context:
    spec = start.spec
    return Context(
        handler=spec.handler,
        generation=start.generation,
        config=spec.config,
        secrets={name: Secret(value) for name, value in spec.secrets.items()},
        log=logging.getLogger(spec.handler),
        data_dir=Path(spec.data_dir) if spec.data_dir is not None else None,
        _others=runtime.outgoing,
    )


@contextmanager
def reduced_gc() -> Iterator[None]:
    """Let the garbage collector rest while much is imported; what is there at the end it never looks at again."""
    usual = gc.get_threshold()
    gc.set_threshold(LOADING_THRESHOLD)
    try:
        yield
    finally:
        # Before the usual threshold is back: else the next object would have all of the new ones looked at.
        gc.freeze()
        gc.set_threshold(*usual)


async def _activate(spec: frames.WorkerSpec, context: Context, runtime: Runtime) -> None:
    begun = time.monotonic()
    handler = load(spec)
    imported = time.monotonic()
    try:
        await handler.run_hook("activate", context)
    except BaseException as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise  # an inline worker is ended; any other is the plugin's own
        raise failed("activate failed", error) from error
    runtime.serve(handler, lambda: handler.run_hook("health", context))
    context.on_close(lambda: handler.run_hook("deactivate", context))
    runtime.send(
        frames.Ready(
            protocol=frames.PROTOCOL_VERSION,
            operations=tuple(operation.info for operation in handler.operations.values()),
            import_seconds=imported - begun,
            activate_seconds=time.monotonic() - imported,
        )
    )


async def _until_stopped(runtime: Runtime, context: Context, inline: bool) -> int:
    try:
        grace = await runtime.stopping
    except asyncio.CancelledError:
        if not runtime.lost.is_set():
            raise
        if not inline:
            # The host is gone, and nobody else will end what this worker has started.
            os.killpg(os.getpgrp(), signal.SIGKILL)
        grace = TERM_GRACE
    try:
        async with asyncio.timeout(grace):
            await runtime.end_calls()
            await context.close()
    except TimeoutError:
        context.log.warning("deactivation did not end within %g s", grace)
    await runtime.written()
    return 0


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None)
