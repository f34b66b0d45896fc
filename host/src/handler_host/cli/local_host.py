"""Run a host for the time of one command."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from handler_host.cli.failure import USAGE, Failure
from handler_host.cli.progress import show_progress

STOP_TIMEOUT_S = 60
"""Seconds for the host to stop before it is killed."""


@contextlib.contextmanager
def run_local_host(
    environment: Mapping[str, str],
    *,
    port: int,
    log_level: str,
    config: str | None,
    read_log: Callable[[IO[str]], None] | None = None,
) -> Iterator[str]:
    """Run a host on 127.0.0.1 (port 0 selects a free one) and yield its URL.

    Its log goes to standard error, or to ``read_log``, which reads it to its end in a thread.
    """
    command = [sys.executable, "-m", "handler_host", "serve", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--log-level", log_level]
    command += ["--config", str(Path(config).absolute())] if config else []
    # A process group of its own: Ctrl-C must reach only the command, which then stops the host.
    stderr = subprocess.PIPE if read_log is not None else None
    with subprocess.Popen(
        command, env=dict(environment), stdout=subprocess.PIPE, stderr=stderr, text=True, process_group=0
    ) as process:
        reader = threading.Thread(target=read_log, args=(process.stderr,), name="log") if read_log is not None else None
        if reader is not None:
            reader.start()
        try:
            assert process.stdout is not None
            with show_progress("starting a host"):
                line = process.stdout.readline()
            if not line.startswith("ready "):
                raise Failure("the host did not start; its log above has the reason", USAGE)
            yield line.removeprefix("ready ").strip()
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
            if reader is not None:
                reader.join()
