"""A worker on another machine than its host: ``python -m handler_host.workers.runtime.remote``.

The first line of its standard input names the host (``HostAddress``). The worker connects to it, sends its token,
and is then a worker like any other. It has the environment of its own machine, as far as workers have one, and
sends its output to the host's log.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
import threading
import traceback
from contextlib import suppress
from typing import NoReturn

import msgspec

from handler_host.workers.environment import worker_environment
from handler_host.workers.host_signals import ignore_host_signals
from handler_host.workers.process_exit import exit_process
from handler_host.workers.remote.connection import SERVER_NAME, HostAddress, client_context
from handler_host.workers.runtime.host_connection import HostConnection
from handler_host.workers.runtime.log_bridge import LogBridge
from handler_host.workers.runtime.process import serve_connection
from handler_host.workers.runtime.process_setup import set_oom_score_and_pdeathsig

CONNECT_TIMEOUT = 10.0
"""Seconds for the connection to the host and its TLS handshake."""

MAX_LINE = 8 * 1024
"""Bytes at which a line of output is cut: a frame of the channel is bounded, and so is memory."""

ACCELERATORS = (
    *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"),
    *("ONEAPI_DEVICE_SELECTOR", "TPU_VISIBLE_CHIPS", "ASCEND_RT_VISIBLE_DEVICES", "NEURON_RT_VISIBLE_CORES"),
)
"""Variables by which an engine assigns devices to a worker."""


def main() -> NoReturn:
    """Run the worker, and end the process."""
    code = 1
    try:
        ignore_host_signals()
        set_oom_score_and_pdeathsig(os.getppid())
        address = msgspec.json.decode(sys.stdin.buffer.readline(), type=HostAddress)
        _keep_environment()
        random.seed()
        code = asyncio.run(_serve(address))
    except OSError as error:
        sys.stderr.write(f"no connection to the host: {error}\n")
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        exit_process(code)


def _keep_environment() -> None:
    """Keep what workers have of this machine's environment; the engine's own variables may hold its secrets."""
    kept = worker_environment(os.environ)
    kept |= {name: os.environ[name] for name in ACCELERATORS if name in os.environ}
    os.environ.clear()
    os.environ.update(kept)


async def _serve(address: HostAddress) -> int:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_TIMEOUT):
        transport, host = await loop.create_connection(
            HostConnection,
            address.host,
            address.port,
            ssl=client_context(address.certificate) if address.certificate is not None else None,
            server_hostname=SERVER_NAME if address.certificate is not None else None,
        )
    transport.write(address.token)
    fd = transport.get_extra_info("socket").fileno()
    return await serve_connection(transport, host, fd, on_confined=lambda: _send_output_to_host(host))


def _send_output_to_host(host: HostConnection) -> None:
    """Send what the plugin prints to the host's log, and copy it to the standard error of the engine."""
    read, write = os.pipe()
    copy = os.dup(2)
    os.set_inheritable(copy, False)
    os.dup2(write, 1)
    os.dup2(write, 2)
    os.close(write)
    # Not the bridge of the log: a plugin that prints much loses no record of its log.
    bridge = LogBridge(host.send)

    def forward() -> None:
        with os.fdopen(read, "rb") as output:
            while line := output.readline(MAX_LINE):
                os.write(copy, line)
                text = line.decode("utf-8", "backslashreplace").rstrip()
                if text:
                    with suppress(RuntimeError):  # the loop has ended
                        bridge.emit(logging.makeLogRecord({"name": "output", "levelno": logging.INFO, "msg": text}))

    threading.Thread(target=forward, name="output", daemon=True).start()


if __name__ == "__main__":
    main()
