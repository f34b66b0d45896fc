"""The main job, told in six steps: ``make demo``. It needs no key, no account and no network.

Starts the host on a free loopback port and watches its memory while handlers are
activated, used and unloaded. ``gpt_e`` runs a small model in its own worker; the
OpenAI SDK inside ``gpt_a`` is pointed at the host itself, and served by ``gpt_e``.
``make serve`` (``--serve``) leaves the same host running.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONFIG = """\
[server]
port = {port}

[log]
level = "{level}"

[workers]
linger = "{linger}"            # the fork server goes so soon after its last worker

[handlers.gpt_a]               # the real OpenAI SDK, pointed at this very host
base_url = "http://127.0.0.1:{port}/v1"
model = "gpt_e"
"""
QUESTION = "What is the capital of France? Answer in one sentence."
TIME_LIMIT = 180
"""Seconds after which the demo gives up."""
WIDTH = 30
"""Characters of the longest bar."""


class Host:
    """A host in a process of its own, and the few requests that the story needs."""

    def __init__(self, process: subprocess.Popen[str], port: int, token: str) -> None:
        self.process = process
        self.port = port
        self._token = token

    def send(self, method: str, path: str, body: object = None) -> http.client.HTTPResponse:
        """Send a request; return the answer, of which the body is still to be read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        if answer.status >= 400:
            raise SystemExit(f"demo: {method} {path} was answered {answer.status}: {answer.read().decode()}")
        return answer

    def call(self, method: str, path: str) -> Any:
        """Send a request; return the JSON of its answer."""
        return json.loads(self.send(method, path).read())

    def chat(self, model: str, question: str) -> str:
        """Ask, print the answer as it comes, and return what the time went into."""
        messages = [{"role": "user", "content": question}]
        answer = self.send(
            "POST",
            "/v1/chat/completions",
            {"model": model, "messages": messages, "stream": True, "max_tokens": 24, "temperature": 0},
        )
        print("      ", end="")
        for raw in answer:
            data = raw.decode().strip().removeprefix("data: ")
            if not data or data == "[DONE]" or data.startswith(":"):
                continue
            chunk = json.loads(data)
            if "error" in chunk:
                raise SystemExit(f"demo: {model} failed: {chunk['error']['message']}")
            for choice in chunk["choices"]:
                print((choice["delta"].get("content") or "").replace("\n", " "), end="", flush=True)
        print()
        return answer.headers["Server-Timing"] or ""

    def states(self) -> dict[str, str]:
        """Return the state of each handler of the demo."""
        handlers = self.call("GET", "/admin/handlers")["handlers"]
        return {handler["name"]: handler["state"] for handler in handlers if handler["name"] in ("gpt_a", "gpt_e")}


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def running_host() -> Iterator[Host]:
    """Start a host, and end it whatever happens; nothing of it is left then."""
    with tempfile.TemporaryDirectory(prefix="handler-host-demo-") as directory:
        port, token = free_port(), secrets.token_urlsafe(24)
        config = Path(directory, "host.toml")
        config.write_text(CONFIG.format(port=port, level="warning", linger="1s"))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HANDLER_HOST_")}
        environment["HANDLER_HOST_ADMIN_TOKEN"] = token
        with Path(directory, "log").open("w+") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "host", "serve", "--config", str(config)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            assert process.stdout is not None
            try:
                if not process.stdout.readline().startswith("ready "):
                    process.wait(10)
                    log.seek(0)
                    raise SystemExit(f"demo: the host did not start:\n{log.read()}")
                yield Host(process, port, token)
            finally:
                end(process)


def end(process: subprocess.Popen[str]) -> None:
    """End the host, politely at first; fail if a process of it is left."""
    tree = descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
    left = [pid for pid in tree if Path(f"/proc/{pid}").exists()]
    if left:
        raise SystemExit(f"demo: processes are left: {left}")


def descendants(pid: int) -> list[int]:
    """Return the processes below ``pid``."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split()):
                found += [child, *descendants(child)]
    return found


class Story:
    """The steps, with the memory at the end of each."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._rows: list[tuple[str, dict[str, Any]]] = []

    def step(self, title: str) -> None:
        """Begin the next step."""
        print(f"\n{len(self._rows) + 1}. {title}")

    def note(self, text: str) -> None:
        """Print a line of the step."""
        print(f"      {text}")

    def remember(self, what: str) -> None:
        """Measure, and keep it for the table."""
        self._rows.append((what, self._host.call("GET", "/admin/memory")))

    def table(self) -> None:
        """Print the memory of all steps."""
        most = max(memory["used"] for _, memory in self._rows)
        print("\nMemory of the host and all its processes (PSS, MB):\n")
        print(f"  {'':<25} {'host':>5} {'fork server':>12} {'gpt_a':>6} {'gpt_e':>6} {'all':>6}")
        for number, (what, memory) in enumerate(self._rows, 1):
            workers = [memory["workers"].get(name, {}).get("pss") for name in ("gpt_a", "gpt_e")]
            figures = [memory["host"], memory["fork_server"], *workers, memory["used"]]
            cells = (
                f"{figure / 2**20:.0f}".rjust(width) if figure is not None else "-".rjust(width)
                for figure, width in zip(figures, (5, 12, 6, 6, 6), strict=True)
            )
            bar = "█" * max(1, round(WIDTH * memory["used"] / most))
            print(f"  {number}. {what:<22} {' '.join(cells)}  {bar}")


def wait_until_alone(host: Host) -> None:
    """Wait until the fork server has gone."""
    limit = time.monotonic() + 30
    while host.call("GET", "/admin/memory")["fork_server"] is not None:
        if time.monotonic() > limit:
            raise SystemExit("demo: the fork server did not go")
        time.sleep(0.1)


def tell() -> None:
    """Walk through the story."""
    with running_host() as host:
        story = Story(host)
        story.step("The host knows its handlers, and has imported none of them.")
        for name, state in host.states().items():
            story.note(f"{name}: {state}")
        story.remember("everything cold")

        story.step(f'A first chat with gpt_e, a local model: "{QUESTION}"')
        story.note(f"({host.chat('gpt_e', QUESTION)})")
        story.note("`activate` is its cold start: fork a worker, import llama.cpp, load the model.")
        story.remember("gpt_e has answered")

        story.step("A chat with gpt_a: the real OpenAI SDK, pointed at this host's own /v1, where gpt_e answers.")
        story.note(f"({host.chat('gpt_a', QUESTION)})")
        story.remember("gpt_a has answered")

        story.step("Both are idle now. Left alone, they would be unloaded after `idle_after`.")
        for name, state in host.states().items():
            story.note(f"{name}: {state}")
        story.remember("both idle")

        story.step("An operator unloads them: POST /admin/handlers/NAME/unload")
        for name in ("gpt_a", "gpt_e"):
            receipt = host.call("POST", f"/admin/handlers/{name}/unload")
            story.note(
                f"{name}: generation {receipt['generation']} gone in {receipt['seconds'] * 1000:.0f} ms, "
                f"{receipt['bytes_given_back'] / 2**20:.0f} MB given back, {receipt['killed']} dispatches killed"
            )
        story.remember("both unloaded")

        story.step("The fork server has nothing more to do, and goes too.")
        wait_until_alone(host)
        for name, state in host.states().items():
            story.note(f"{name}: {state}")
        story.remember("back at the start")
        story.table()
    print("\nThe host has ended, and no process of it is left. `make serve` leaves one running.")


def serve() -> None:
    """Become the same host, and say what to try."""
    port = 8080
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            port = free_port()
    directory = Path(tempfile.gettempdir(), f"handler-host-serve-{os.getuid()}")
    directory.mkdir(mode=0o700, exist_ok=True)
    config = directory / "host.toml"
    config.write_text(CONFIG.format(port=port, level="info", linger="60s"))
    token = os.environ.setdefault("HANDLER_HOST_ADMIN_TOKEN", secrets.token_urlsafe(24))
    url = f"http://127.0.0.1:{port}"
    chat = '{"model": "gpt_e", "stream": true, "messages": [{"role": "user", "content": "Who are you?"}]}'
    sys.stderr.write(
        f"""try in another terminal:

  curl {url}/v1/handlers
  curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{chat}'
  curl -H 'Authorization: Bearer {token}' {url}/admin/memory
  curl -X POST -H 'Authorization: Bearer {token}' {url}/admin/handlers/gpt_e/unload

  export HANDLER_HOST_URL={url} HANDLER_HOST_ADMIN_TOKEN={token}
  .venv/bin/handler-host ps

"""
    )
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "host", "serve", "--config", str(config)])


def main() -> None:
    """Tell the story, or serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true", help="leave the host running, and print what to try")
    if parser.parse_args().serve:
        serve()
        return
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(f"demo: not done within {TIME_LIMIT} s"))
    signal.alarm(TIME_LIMIT)
    try:
        tell()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
