"""The main job, told in six steps: ``make demo``. It needs no key, no account and no network.

Starts the host on a free loopback port and watches its memory while handlers are
activated, used and unloaded. ``gpt_e`` runs a small model in its own worker. The SDKs of
the other four are pointed at the host itself, which speaks OpenAI's, Anthropic's and
Gemini's protocols, and served by ``gpt_e``. ``sheets`` keeps it in a local workbook.
``make serve`` (``--serve``) leaves the same host running.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

CONFIG = Path(__file__).with_name("demo.toml")
SDKS = {
    "gpt_a": "the OpenAI SDK",
    "gpt_b": "the Anthropic SDK",
    "gpt_c": "google-generativeai",
    "gpt_d": "LiteLLM",
}
HANDLERS = ("gpt_e", *SDKS, "sheets")
QUESTION = "What is the capital of France? Answer in one sentence."
TIME_LIMIT = 240
"""Seconds after which the demo gives up."""
STOP_LIMIT, LEAVE_LIMIT = 20, 2
"""Seconds for the host to stop, and for the last of its processes to be gone then."""
TOLERANCE = 4
"""MB by which the memory at the end may differ from that at the start."""
BAR = 7
"""Characters of the longest bar."""
MB = 1024**2


class Host:
    """A host in a process of its own, and the few requests that the story needs."""

    def __init__(self, process: subprocess.Popen[str], port: int, token: str) -> None:
        self.process = process
        self.pids = {process.pid}
        """All processes that were seen of it."""
        self._port = port
        self._token = token

    def send(self, method: str, path: str, body: object = None) -> http.client.HTTPResponse:
        """Send a request; return the answer, of which the body is still to be read."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            fail(f"{method} {path}: {error}")
        if response.status >= 400:
            fail(f"{method} {path} was answered {response.status}: {json.loads(response.read())['error']['message']}")
        return response

    def call(self, method: str, path: str) -> Any:
        """Send a request; return the JSON of its answer."""
        return json.loads(self.send(method, path).read())

    def ask(self, handler: str, operation: str, **request: object) -> Any:
        """Run an operation of a handler; return its answer."""
        return json.loads(self.send("POST", f"/v1/handlers/{handler}/{operation}", request).read())

    def chat(self, model: str) -> tuple[float, float]:
        """Ask, and print the answer as it comes; return the seconds of its cold start, and to the first piece."""
        messages = [{"role": "user", "content": QUESTION}]
        request = {"model": model, "messages": messages, "stream": True, "max_tokens": 24, "temperature": 0}
        response = self.send("POST", "/v1/chat/completions", request)
        said = ""
        print(f"   {model}> ", end="", flush=True)
        for raw in response:
            data = raw.decode().strip().removeprefix("data: ")
            if data.startswith("{"):
                chunk = json.loads(data)
                if "error" in chunk:
                    fail(f"{model} failed: {chunk['error']['message']}")
                for choice in chunk["choices"]:
                    piece = (choice["delta"].get("content") or "").replace("\n", " ")
                    print(piece, end="", flush=True)
                    said += piece
        print()
        if not said.strip():
            fail(f"{model} has answered with nothing")
        timing = dict(re.findall(r"(\w+);dur=([\d.]+)", response.headers["Server-Timing"] or ""))
        return float(timing["activate"]) / 1000, float(timing["handler"]) / 1000

    def states(self) -> dict[str, str]:
        """Return the state of each handler of the demo."""
        handlers = {handler["name"]: handler for handler in self.call("GET", "/admin/handlers")["handlers"]}
        for name in HANDLERS:
            if name not in handlers:
                fail(f"the plugin {name} is not installed: run make setup")
            if handlers[name]["reason"] is not None and handlers[name]["state"] not in ("cold", "idle"):
                fail(f"{name} is {handlers[name]['state']}: {handlers[name]['reason']}")
        return {name: handlers[name]["state"] for name in HANDLERS}

    def memory(self) -> dict[str, Any]:
        """Return the memory of the whole tree."""
        memory: dict[str, Any] = self.call("GET", "/admin/memory")
        self.pids |= {*memory["fork_server_pids"], *(worker["pid"] for worker in memory["workers"].values())}
        return memory


def fail(message: str) -> NoReturn:
    """End the demo."""
    raise SystemExit(f"demo: {message}")


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def environment(token: str, data: str) -> dict[str, str]:
    """Return the environment of the host: what the caller has set for other hosts is left out."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("HANDLER_HOST_")}
    own["HANDLER_HOST_ADMIN_TOKEN"] = token
    own["HANDLER_HOST_DATA_DIR"] = data
    # The story begins with nothing learned, and leaves nothing behind.
    own["HANDLER_HOST_MEMORY__STATE_FILE"] = os.devnull
    # Where there is a proxy, it is not to be asked for the host itself.
    for name in ("NO_PROXY", "no_proxy"):
        own[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1", "localhost"]))
    return own


def command(port: int, data: str, *more: str) -> list[str]:
    """Return how the host is started; its configuration names the port of this run wherever it means the host."""
    config = Path(data, "host.toml")
    config.write_text(CONFIG.read_text().replace("8080", str(port)))
    return [sys.executable, "-m", "handler_host", "serve", "--config", str(config), *more]


@contextlib.contextmanager
def running_host() -> Iterator[Host]:
    """Start a host, and end it whatever happens; nothing of it is left then."""
    with tempfile.TemporaryFile("w+") as log, tempfile.TemporaryDirectory(prefix="handler-host-demo-") as data:
        host = start(log, data)
        try:
            yield host
        finally:
            end(host)


def start(log: IO[str], data: str) -> Host:
    """Start a host that keeps its data in ``data``; once more if somebody has taken the port meanwhile."""
    reason = ""
    for _ in range(3):
        port, token = free_port(), secrets.token_urlsafe(24)
        settings = environment(token, data) | {"HANDLER_HOST_WORKERS__LINGER": "1s"}
        process = subprocess.Popen(
            command(port, data, "--log-level", "error"), env=settings, stdout=subprocess.PIPE, stderr=log, text=True
        )
        host = Host(process, port, token)
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
        except SystemExit:
            end(host)
            raise
        if line.startswith("ready "):
            return host
        end(host)
        log.seek(0)
        reason = log.read()
        if "cannot listen" not in reason:
            break
    fail(f"the host did not start:\n{reason}")


def end(host: Host) -> None:
    """End the host, politely at first; fail if a process of it is left."""
    host.pids |= set(descendants(host.process.pid))
    host.process.terminate()
    try:
        host.process.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        host.process.kill()
        host.process.wait()
    if host.process.stdout is not None:
        host.process.stdout.close()
    limit = time.monotonic() + LEAVE_LIMIT
    while left := [pid for pid in host.pids if Path(f"/proc/{pid}").exists()]:
        if time.monotonic() > limit:
            fail(f"processes are left: {left}")
        time.sleep(0.05)


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
        self._steps = 0

    def step(self, *title: str) -> None:
        """Begin the next step."""
        self._steps += 1
        print(f"\n{self._steps}. " + "\n   ".join(title))

    def states(self) -> None:
        """Print the handlers' states."""
        states = self._host.states()
        alike = set(states.values())
        if len(alike) == 1:
            print(f"   {', '.join(states)} are {alike.pop()}")
        else:
            print("   " + ", ".join(f"{name} is {state}" for name, state in states.items()))

    def chat(self, model: str) -> None:
        """Ask the model, and tell of its cold start."""
        cold, first = self._host.chat(model)
        if not cold:
            fail(f"{model} was not cold")
        print(f"   ({cold:.2f} s cold start, and {first:.2f} s to the first piece of the answer)")
        self.remember(f"{model} has answered")

    def keep(self) -> None:
        """Put what was asked into the log, and read it again."""
        host = self._host
        rows = [{"user_id": "demo", "event": "question", "text": QUESTION, "data": name} for name in HANDLERS[:-1]]
        host.ask("sheets", "log.append", rows=rows)
        count = host.ask("sheets", "states.increment", name="questions", by=len(rows))["value"]
        tail = host.ask("sheets", "log.tail", user_id="demo")["rows"]
        mode = host.ask("sheets", "status")["mode"]
        if (mode, count, [row["data"] for row in tail]) != ("local", len(rows), [row["data"] for row in rows]):
            fail(f"sheets has not kept what was asked: {mode}, {count}, {tail}")
        print(f"   {mode} workbook: {len(tail)} rows in the log, {count} questions counted")

    def remember(self, what: str, *, quiet: bool = False) -> None:
        """Measure, and keep it for the table."""
        memory = self._host.memory()
        self._rows.append((what, memory))
        if quiet:
            return
        parts = [f"host {memory['host'] / MB:.0f}"]
        if memory["fork_server"] is not None:
            parts.append(f"fork server {memory['fork_server'] / MB:.0f}")
        parts += [f"{name} {worker['pss'] / MB:.0f}" for name, worker in sorted(memory["workers"].items())]
        print(f"   memory: {memory['used'] / MB:.0f} MB ({', '.join(parts)})")

    def unload(self) -> None:
        """Unload the handlers, and print the receipts."""
        for name in reversed(HANDLERS):
            receipt = self._host.call("POST", f"/admin/handlers/{name}/unload")
            given_back = receipt["bytes_given_back"] / MB
            if receipt["generation"] is None or given_back < 1:
                fail(f"the unload of {name} gave nothing back: {receipt}")
            print(
                f"   {name}: generation {receipt['generation']} gone in {receipt['seconds'] * 1000:.0f} ms, "
                f"{given_back:.0f} MB given back, {receipt['killed']} dispatches killed"
            )
            self.remember(f"{name} is unloaded", quiet=True)

    def wait_for_the_fork_server_to_go(self) -> None:
        """Wait until the host is alone."""
        limit = time.monotonic() + 30
        while self._host.memory()["fork_server"] is not None:
            if time.monotonic() > limit:
                fail("the fork server did not go")
            time.sleep(0.1)

    def table(self) -> None:
        """Print the memory of all steps; fail if it is not back where it was."""
        full = "█" if (sys.stdout.encoding or "").lower().startswith("utf") else "#"
        most = max(memory["used"] for _, memory in self._rows)
        heads = ("host", "fork", *HANDLERS, "all")
        widths = [max(4, len(head)) for head in heads]
        print(f"\n{'PSS in MB':<20} " + " ".join(head.rjust(width) for head, width in zip(heads, widths, strict=True)))
        for what, memory in self._rows:
            workers = [memory["workers"].get(name, {}).get("pss") for name in HANDLERS]
            figures = [memory["host"], memory["fork_server"], *workers, memory["used"]]
            cells = (
                (f"{figure / MB:.0f}" if figure is not None else "-").rjust(width)
                for figure, width in zip(figures, widths, strict=True)
            )
            bar = full * max(1, round(BAR * memory["used"] / most))
            print(f"{what:<20} {' '.join(cells)} {bar}")
        grown = (self._rows[-1][1]["used"] - self._rows[0][1]["used"]) / MB
        if grown > TOLERANCE:
            fail(f"the memory is not back where it was: {grown:.1f} MB more than at the start")


def tell() -> None:
    """Walk through the story."""
    with running_host() as host:
        story = Story(host)
        story.step("The host knows its handlers, and has imported none of them.")
        story.states()
        story.remember("all cold")

        story.step("A first chat with gpt_e, a small local model in a worker of its own:", f'"{QUESTION}"')
        story.chat("gpt_e")

        story.step(
            "The same to four real SDKs, each in a worker of its own. Their providers are",
            "this very host, which speaks all their protocols; gpt_e answers behind it.",
        )
        for name in SDKS:
            story.chat(name)

        story.step("sheets keeps what was asked, in a local workbook. Then all are idle:")
        story.keep()
        story.states()
        story.remember("sheets has kept it")

        story.step("An operator does not wait: POST /admin/handlers/NAME/unload")
        story.unload()

        story.step("The fork server has nothing more to do, and goes too.")
        story.wait_for_the_fork_server_to_go()
        story.remember("memory is back")
        story.table()
    print("\nThe host has ended and no process of it is left. `make serve` leaves it running.")


def serve() -> None:
    """Become the same host, and say what to try."""
    port = 8080
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            port = free_port()
    token = os.environ.get("HANDLER_HOST_ADMIN_TOKEN") or secrets.token_urlsafe(24)
    url = f"http://127.0.0.1:{port}"
    sys.stderr.write(
        f"""try in another terminal:

  curl {url}/v1/handlers
  curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "gpt_e", "stream": true, "messages": [{{"role": "user", "content": "Who are you?"}}]}}'

  export HANDLER_HOST_URL={url} HANDLER_HOST_ADMIN_TOKEN={token}
  curl -H "Authorization: Bearer $HANDLER_HOST_ADMIN_TOKEN" {url}/admin/memory
  curl -H "Authorization: Bearer $HANDLER_HOST_ADMIN_TOKEN" -X POST {url}/admin/handlers/gpt_e/unload

  {Path(sys.executable).parent / "handler-host"} ps        # and chat, unload, memory: see --help

"""
    )
    sys.stderr.flush()
    data = tempfile.mkdtemp(prefix="handler-host-demo-")
    os.execve(sys.executable, command(port, data), environment(token, data))


def stop(number: int, _: object) -> None:
    """End at a signal as at an error: the host is ended, too."""
    sys.exit(f"demo: not done within {TIME_LIMIT} s" if number == signal.SIGALRM else 128 + number)


def main() -> None:
    """Tell the story, or serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true", help="leave the host running, and print what to try")
    if parser.parse_args().serve:
        serve()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace", line_buffering=True)
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    signal.alarm(TIME_LIMIT)
    tell()


if __name__ == "__main__":
    main()
