"""A host that a command runs for itself, and ends."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from handler_host.cli.failure import USAGE, Failure

STOP_LIMIT = 60
"""Seconds for it to end, before it is killed."""


@contextlib.contextmanager
def own_host(environment: Mapping[str, str], *, port: int, log_level: str, config: str | None) -> Iterator[str]:
    """Run a host on 127.0.0.1 (port 0 takes a free one); give its URL. Its log goes to standard error."""
    command = [sys.executable, "-m", "handler_host", "serve", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--log-level", log_level]
    command += ["--config", str(Path(config).absolute())] if config else []
    # In a group of its own: Ctrl-C is for the command.
    with subprocess.Popen(
        command, env=dict(environment), stdout=subprocess.PIPE, text=True, process_group=0
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("ready "):
                raise Failure("the host did not start: see above", USAGE)
            yield line.removeprefix("ready ").strip()
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
