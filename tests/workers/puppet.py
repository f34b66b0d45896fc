"""A handler that runs scripts of steps, at activation and in its operations: the tests' misbehaving plugin.

Its configuration has ``control``, a directory with FIFOs. Over them the handler and a test wait for each
other, so that no test needs to sleep.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from handler_host.plugin import Context, InvalidInput, UpstreamRateLimited, hookimpl, operation


class Puppet:
    """A handler that runs the steps of its requests and of its configuration."""

    @hookimpl
    async def activate(self, context: Context) -> None:
        self.context = context
        self.allocated: list[bytes] = []
        self.control = Path(context.config.get("control", "no-control"))
        for step in context.config.get("at_activation", "").split():
            await self.run(step)

    @hookimpl
    async def deactivate(self, context: Context) -> None:
        for step in context.config.get("at_deactivation", "").split():
            await self.run(step)

    async def run(self, step: str) -> None:
        """Run one step of a script."""
        match step.split(":"):
            case ["wait", name]:
                await asyncio.to_thread(self.receive, name)
            case ["tell", name]:
                self.tell(name)
            case ["raise"]:
                raise RuntimeError("told to fail")
            case ["exit", code]:
                os._exit(int(code))
            case ["sys_exit"]:
                sys.exit(0)
            case ["block", *seconds]:
                time.sleep(float(seconds[0]) if seconds else 86400)  # noqa: ASYNC251 - the step is meant to block the loop
            case ["deaf"]:
                asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            case ["forever"]:
                await asyncio.Event().wait()
            case ["allocate", megabytes]:
                # Filled, so that the pages become resident.
                self.allocated.append(b"x" * (int(megabytes) * 1024**2))
            case ["free"]:
                self.allocated.clear()
            case ["children"]:
                # It keeps the output pipe open, and ignores SIGTERM.
                command = "trap '' TERM; while :; do sleep 1000; done"
                child = subprocess.Popen(["sh", "-c", command])
                self.tell("child", str(child.pid))

    def receive(self, name: str) -> str:
        """Wait until the test writes to a FIFO; return the text."""
        with open(self.control / name) as fifo:
            return fifo.read()

    def tell(self, name: str, text: str = "now") -> None:
        """Write to a FIFO; waits until the test reads it."""
        with open(self.control / name, "w") as fifo:
            fifo.write(text)

    @operation
    async def echo(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the request, the process ID and the generation."""
        return {**request, "pid": os.getpid(), "generation": self.context.generation}

    @operation
    async def script(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run the steps, then return the process ID."""
        for step in request["steps"]:
            await self.run(step)
        return {"pid": os.getpid()}

    @operation
    async def compute(self, request: dict[str, float]) -> dict[str, int]:
        """Use the processor for ``seconds``, then return the process ID."""
        end = time.thread_time() + request["seconds"]
        while time.thread_time() < end:
            pass
        return {"pid": os.getpid()}

    @operation
    async def stream(self, request: dict[str, Any]) -> AsyncIterator[dict[str, int]]:
        """Yield numbers; run one step of the script before each."""
        try:
            for number, step in enumerate(request["steps"]):
                if step:
                    await self.run(step)
                yield {"number": number}
        finally:
            if request.get("at_close"):
                self.tell(request["at_close"])

    @operation
    async def flood(self, request: dict[str, Any]) -> AsyncIterator[str]:
        """Yield chunks of one size without end, and count them in a file."""
        chunk = "x" * request["size"]
        count = 0
        while count < request.get("limit", 1 << 60):
            count += 1
            (self.control / "flooded").write_text(str(count))
            yield chunk

    @operation
    async def big(self, request: dict[str, int]) -> str:
        """Return ``size`` characters."""
        return "x" * request["size"]

    @operation
    async def print(self, request: dict[str, str]) -> dict[str, Any]:
        """Write to standard output and error, by Python and by the file descriptor."""
        print(request["text"], "by print")  # noqa: T201
        print(request["text"], "to stderr", file=sys.stderr)  # noqa: T201
        os.write(1, (request["text"] + " by write\n").encode())
        return {}

    @operation
    async def garbage(self, request: dict[str, str]) -> None:
        """Write bytes into the channel that are not a frame."""
        for name in os.listdir("/proc/self/fd"):
            fd = int(name)
            if fd > 2 and os.path.exists(f"/proc/self/fd/{fd}") and "socket" in os.readlink(f"/proc/self/fd/{fd}"):
                try:
                    os.write(fd, bytes.fromhex(request["hex"]))
                except OSError:
                    continue
        await asyncio.Event().wait()

    @operation
    async def environment(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the environment of the worker's process."""
        group = os.getpgrp()
        return {
            "environ": dict(os.environ),
            "initial": Path("/proc/self/environ").read_text(),
            "group": group,
            "pid": os.getpid(),
            "oom_score_adj": int(Path("/proc/self/oom_score_adj").read_text()),
            "secrets": {name: secret.reveal() for name, secret in self.context.secrets.items()},
            "shown": repr(self.context),
        }

    @operation
    async def refuse(self, request: dict[str, Any]) -> None:
        """Raise an error of ``handler_host.plugin``."""
        if request.get("limit"):
            raise UpstreamRateLimited("too many", retry_after=7.0)
        raise InvalidInput("no good", param="field")

    @operation
    async def fail(self, request: dict[str, Any]) -> None:
        """Raise an exception of another type."""
        raise ValueError("a secret detail")

    @operation
    def in_thread(self, request: dict[str, int]) -> dict[str, int]:
        """Return the next number; a plain function."""
        return {"answer": request["number"] + 1}
