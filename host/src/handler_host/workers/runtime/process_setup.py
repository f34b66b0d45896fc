"""Prepare the process of a worker: its end with the host, its environment, its limits, its log, its import path."""

from __future__ import annotations

import gc
import io
import logging
import os
import signal
import site
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from handler_host.channel import frames
from handler_host.workers.host_signals import restore_host_signals
from handler_host.workers.runtime import kernel
from handler_host.workers.runtime.log_bridge import LogBridge

CHATTY_LOGGERS = ("httpx", "httpx2")
"""Loggers of libraries below the SDKs that write a line at ``info`` for each request."""

PR_SET_PDEATHSIG = 1

DEFAULT_OOM_SCORE_ADJ = 500
"""Added to the kernel's own score of every worker, so that it kills workers before the host."""

LOADING_THRESHOLD = 500_000
"""New objects between two garbage collections while a handler is loaded; Python's default is 700.

More than the import of any SDK here creates: at the default, collections took 9 to 20 % of the CPU time of
an import and freed next to nothing (``make bench-activation``). Not unlimited, as a handler may run any
code in its activation.
"""


def set_oom_score_and_pdeathsig(parent: int | None) -> None:
    """Make the kernel kill this process when ``parent`` ends, and before the host when memory runs out."""
    _write_oom_score_adj(DEFAULT_OOM_SCORE_ADJ)
    if parent is None:
        return
    set_parent_death_signal(signal.SIGKILL)
    # The parent may have ended before the kernel knew that it matters.
    if os.getppid() != parent:
        os._exit(1)


def set_parent_death_signal(number: int) -> None:
    """Make the kernel send signal ``number`` to this process when its parent ends (Linux; elsewhere no effect)."""
    if sys.platform == "linux":
        kernel.prctl(PR_SET_PDEATHSIG, number)


def apply_environment(spec: frames.WorkerSpec) -> None:
    """Replace the environment of this process with that of the handler, its secrets included."""
    if not spec.is_remote:
        os.environ.clear()
    os.environ.update(spec.environment)
    os.environ.update(spec.secrets)
    if hasattr(time, "tzset"):
        time.tzset()


def apply_limits(spec: frames.WorkerSpec) -> None:
    """Apply the memory limit and the OOM score of the handler."""
    if spec.oom_score_adj != DEFAULT_OOM_SCORE_ADJ:
        _write_oom_score_adj(spec.oom_score_adj)
    if spec.memory_hard_limit is not None:
        import resource  # only where there is a limit

        resource.setrlimit(resource.RLIMIT_DATA, (spec.memory_hard_limit, spec.memory_hard_limit))


def send_log_to_host(spec: frames.WorkerSpec, send: Callable[[frames.Log], None]) -> None:
    """Send log records and warnings to the host, from the level of the handler on."""
    logging.basicConfig(level=spec.log_level, handlers=[LogBridge(send)], format="%(message)s", force=True)
    logging.captureWarnings(True)
    if spec.log_level > logging.DEBUG:
        for name in CHATTY_LOGGERS:
            logging.getLogger(name).setLevel(max(spec.log_level, logging.WARNING))


def send_output_by_line() -> None:
    """Write each printed line at once, so that the host logs it with its time; a pipe is block-buffered otherwise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)


def prepare_forked_children(fd: int, on_fork: Callable[[], None]) -> None:
    """Close the channel ``fd`` in every process that the plugin forks, let signals end it, and call ``on_fork``.

    Such a process may exec or exit. If it returns to the event loop instead, it exits there.
    """

    def detach() -> None:
        on_fork()
        restore_host_signals()
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, fd, inheritable=False)
        os.close(null)

    os.register_at_fork(after_in_child=detach)


def add_import_paths(paths: tuple[str, ...], *, first: bool) -> None:
    """Add ``paths`` to the import path as site directories, so that editable installs in them are found."""
    for path in reversed(paths):
        before = list(sys.path)
        site.addsitedir(path)
        added = [entry for entry in sys.path if entry not in before]
        sys.path[:] = [*added, *before] if first else [*before, *added]


@contextmanager
def reduced_gc() -> Iterator[None]:
    """Raise the GC threshold during imports, and exclude all objects that exist at the end from later collections."""
    usual = gc.get_threshold()
    gc.set_threshold(LOADING_THRESHOLD)
    try:
        yield
    finally:
        # Before the threshold is restored: otherwise the next allocation starts a collection of all new objects.
        gc.freeze()
        gc.set_threshold(*usual)


def _write_oom_score_adj(value: int) -> None:
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(value))
