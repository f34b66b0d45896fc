"""The far end of measurements of chat handlers: a provider on loopback, in a process of its own.

``aimock`` is one that nobody here wrote (npm, started with node); ``own`` is
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
"""What npm has to have checked it against."""
DIRECTORY = Path(__file__).parents[1] / ".venv-node"
PIECES = 8
QUESTION = "Tell me something."
ANSWER = "".join(f"This is piece {number:02d} of it. " for number in range(PIECES))
CHUNK = len(ANSWER) // PIECES


def aimock() -> Path | None:
    """Return aimock's program, installed if need be; None if it cannot be had here."""
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
    found = lock["packages"]["node_modules/@copilotkit/aimock"]["integrity"]
    if found != AIMOCK_INTEGRITY:
        raise SystemExit(f"{AIMOCK} is not what was expected ({found}): remove {DIRECTORY}")
    return program if shutil.which("node") is not None else None


@contextlib.contextmanager
def provider(name: str) -> Iterator[str]:
    """Run ``aimock`` or ``own``; give its URL, without a path."""
    with tempfile.TemporaryDirectory(prefix="bench-provider-") as directory:
        port = None
        if name == "own":
            command = [sys.executable, "-m", "handler_host.testing", "--chunks", str(PIECES)]
        else:
            fixture = {"match": {"userMessage": QUESTION}, "response": {"content": ANSWER}}
            Path(directory, "fixtures.json").write_text(json.dumps({"fixtures": [fixture]}))
            port = free_port()
            command = ["node", str(aimock()), "-p", str(port), "-f", f"{directory}/fixtures.json"]
            command += ["--log-level", "silent", "--chunk-size", str(CHUNK), "--journal-max", "1"]
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
    """Return the provider to measure with: aimock, where it can be had."""
    return "aimock" if aimock() is not None else "own"


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_for_port(port: int, process: subprocess.Popen[str], limit: float = 60) -> None:
    """Return when somebody listens; raises ``RuntimeError`` when the process ends before, or takes too long."""
    until = time.monotonic() + limit
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise RuntimeError(f"{process.args!r} did not listen within {limit} s")
