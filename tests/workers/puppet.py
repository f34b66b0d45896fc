"""A handler that does what it is told, when it is told: the tests' misbehaving plugin.

Its configuration has ``control``, a directory. Lines are sent to a test over the
FIFOs in it, and awaited from them; nothing in a test sleeps to meet it.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from handler_host.plugin import InvalidInput, UpstreamRateLimited, hookimpl, operation


class Puppet:
    """Runs whatever an operation says."""

    @hookimpl
    async def activate(self, context):
        self.context = context
        self.held = []
        self.control = Path(context.config["control"]) if "control" in context.config else None
        for step in context.config.get("at_activation", "").split():
            await self.do(step)

    @hookimpl
    async def deactivate(self, context):
        for step in context.config.get("at_deactivation", "").split():
            await self.do(step)

    async def do(self, step):
        """One step of a script."""
        match step.split(":"):
            case ["wait", name]:
                await asyncio.to_thread(self.hear, name)
            case ["tell", name]:
                self.tell(name)
            case ["raise"]:
                raise RuntimeError("told to fail")
            case ["exit", code]:
                os._exit(int(code))
            case ["sys_exit"]:
                sys.exit(0)
            case ["block", *seconds]:
                time.sleep(float(seconds[0]) if seconds else 86400)  # noqa: ASYNC251 - that is what it is told to do
            case ["deaf"]:
                asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            case ["forever"]:
                await asyncio.Event().wait()
            case ["allocate", megabytes]:
                # Written to, so that it is there.
                self.held.append(b"x" * (int(megabytes) * 1024**2))
            case ["free"]:
                self.held.clear()
            case ["children"]:
                # They hold the output pipe, and ignore what is asked of them politely.
                command = "trap '' TERM; while :; do sleep 1000; done"
                child = subprocess.Popen(["sh", "-c", command])
                self.tell("child", str(child.pid))

    def hear(self, name):
        """Wait for the test to say something."""
        with open(self.control / name) as fifo:
            return fifo.read()

    def tell(self, name, text="now"):
        """Tell the test something; waits until it listens."""
        with open(self.control / name, "w") as fifo:
            fifo.write(text)

    @operation
    async def echo(self, request: dict) -> dict:
        """Answer with the request, the process and the generation."""
        return {**request, "pid": os.getpid(), "generation": self.context.generation}

    @operation
    async def script(self, request: dict) -> dict:
        """Do the steps, then answer."""
        for step in request["steps"]:
            await self.do(step)
        return {"pid": os.getpid()}

    @operation
    async def stream(self, request: dict):
        """Yield numbers; before each one the next step of the script is done."""
        try:
            for number, step in enumerate(request["steps"]):
                if step:
                    await self.do(step)
                yield {"number": number}
        finally:
            if request.get("at_close"):
                self.tell(request["at_close"])

    @operation
    async def flood(self, request: dict):
        """Yield pieces of a size without end, and count them in a file."""
        chunk = "x" * request["size"]
        count = 0
        while count < request.get("limit", 1 << 60):
            count += 1
            (self.control / "flooded").write_text(str(count))
            yield chunk

    @operation
    async def big(self, request: dict) -> str:
        """Answer with so many bytes."""
        return "x" * request["size"]

    @operation
    async def print(self, request: dict) -> dict:
        """Write to standard output and error, from Python and from below it."""
        print(request["text"], "by print")  # noqa: T201
        print(request["text"], "to stderr", file=sys.stderr)  # noqa: T201
        os.write(1, (request["text"] + " by write\n").encode())
        return {}

    @operation
    async def garbage(self, request: dict) -> dict:
        """Write bytes into the channel that are no frame."""
        for name in os.listdir("/proc/self/fd"):
            fd = int(name)
            if fd > 2 and os.path.exists(f"/proc/self/fd/{fd}") and "socket" in os.readlink(f"/proc/self/fd/{fd}"):
                try:
                    os.write(fd, bytes.fromhex(request["hex"]))
                except OSError:
                    continue
        await asyncio.Event().wait()

    @operation
    async def environment(self, request: dict) -> dict:
        """Answer with what a worker sees of the world."""
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
    async def refuse(self, request: dict) -> dict:
        """Raise an error of the host's."""
        if request.get("limit"):
            raise UpstreamRateLimited("too many", retry_after=7.0)
        raise InvalidInput("no good", param="field")

    @operation
    async def fail(self, request: dict) -> dict:
        """Raise what the host does not know."""
        raise ValueError("a secret detail")

    @operation
    def in_thread(self, request: dict) -> dict:
        """A plain function."""
        return {"answer": request["number"] + 1}
