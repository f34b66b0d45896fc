"""Run a provider on loopback, in a process of its own, for measurements of chat handlers.

``aimock`` comes from npm and runs on node, so it is independent of this project; ``own`` is
``python -m handler_host.testing``. Both speak OpenAI's, Anthropic's and Gemini's protocols.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

AIMOCK = "@copilotkit/aimock@1.43.0"
AIMOCK_INTEGRITY = "sha512-V8D8cjSMtAR4rHaD2ulp3DR/ZguXQjDNOqwKDNvjb/OJL/KR1I0SDf5xpRCd+TYKjhmf9fM8Xpg3QBKPmV9Kmw=="
"""The hash that npm must have checked it against."""
DIRECTORY = Path(__file__).parents[1] / ".venv-node"
CHUNKS = 8
QUESTION = "Tell me something."
RESPONSE = "".join(f"This is chunk {number:02d} of it. " for number in range(CHUNKS))
CHUNK_CHARACTERS = len(RESPONSE) // CHUNKS


def aimock() -> Path | None:
    """Return aimock's program, installed if necessary; None without npm, node or a network."""
    program = DIRECTORY / "node_modules/@copilotkit/aimock/dist/cli.js"
    if not program.exists():
        npm = shutil.which("npm")
        if npm is None:
            return None
        DIRECTORY.mkdir(exist_ok=True)
        command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(DIRECTORY), AIMOCK]
        if subprocess.run(command, check=False, capture_output=True, timeout=300).returncode != 0:
            return None
    lock = json.loads((DIRECTORY / "node_modules/.package-lock.json").read_text())
    integrity = lock["packages"]["node_modules/@copilotkit/aimock"]["integrity"]
    if integrity != AIMOCK_INTEGRITY:
        raise SystemExit(f"{AIMOCK}: unexpected hash {integrity}; remove {DIRECTORY}")
    return program if shutil.which("node") is not None else None


@contextlib.contextmanager
def provider(name: str) -> Iterator[str]:
    """Run ``aimock`` or ``own``; yield its URL, without a path."""
    with tempfile.TemporaryDirectory(prefix="bench-provider-") as directory:
        port = None
        if name == "own":
            command = [sys.executable, "-m", "handler_host.testing", "--chunks", str(CHUNKS)]
        else:
            fixture = {"match": {"userMessage": QUESTION}, "response": {"content": RESPONSE}}
            Path(directory, "fixtures.json").write_text(json.dumps({"fixtures": [fixture]}))
            port = free_port()
            command = ["node", str(aimock()), "-p", str(port), "-f", f"{directory}/fixtures.json"]
            command += ["--log-level", "silent", "--chunk-size", str(CHUNK_CHARACTERS), "--journal-max", "1"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert process.stdout is not None
            if port is None:
                yield process.stdout.readline().split()[1]
            else:
                wait_for_port(port, process)
                yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)


def best() -> str:
    """Return the provider to measure with: aimock if it is available."""
    return "aimock" if aimock() is not None else "own"


def free_port() -> int:
    """Return a free loopback port."""
    return free_ports(1)[0]


def free_ports(number: int) -> list[int]:
    """Return free loopback ports, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_for_port(port: int, process: subprocess.Popen[str], limit_s: float = 60) -> None:
    """Return when the port accepts connections; raises ``RuntimeError`` if the process exits or ``limit_s`` passes."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"{process.args!r} did not listen within {limit_s} s")
