"""The demo of the project in six steps: ``make demo``. It needs no key, no account and no network.

It starts the host on a free loopback port, activates, uses and unloads handlers, and shows
the memory at each step. ``gpt_e`` runs a small model in its worker. The SDKs of the other four
use the host itself as their provider: it has the protocols of OpenAI, Anthropic and Gemini, and
``gpt_e`` answers. ``sheets`` stores the questions in a local workbook. ``make serve``
(``--serve``) leaves the same host running.

Imports of the SDKs are lean as far as ``make lean`` has compiled them, which ``make demo`` does first.
``make demo ARGS=--eager`` shows the same with all imports as the SDKs write them.
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
SERVED = Path(__file__).parents[1] / "build" / "serve"
"""Data of the hosts of ``make serve``, by port; below /tmp, workers could replace it."""
SDKS = {
    "gpt_a": "the OpenAI SDK",
    "gpt_b": "the Anthropic SDK",
    "gpt_c": "google-generativeai",
    "gpt_d": "LiteLLM",
}
HANDLERS = ("gpt_e", *SDKS, "sheets")
QUESTION = "What is the capital of France? Answer in one sentence."
TIMEOUT_S = 240
"""For the whole demo."""
STOP_TIMEOUT_S, EXIT_TIMEOUT_S = 20, 2
"""For the host to stop, and then for the last of its processes to exit."""
TOLERANCE_MB = 6
"""Difference allowed between the memory at the end and at the start.

The host imports what workers, protocols and operators need with the first of them, and keeps these 4 to 5 MB.
"""
TABLE = "PSS in MB"
"""Begin of the table."""
MAX_BAR = 7
"""Characters of the longest bar."""
MB = 1024**2


class Host:
    """A host in a process of its own, and the requests of the demo."""

    def __init__(self, process: subprocess.Popen[str], port: int, token: str) -> None:
        self.process = process
        self.pids = {process.pid}
        """All processes of the host so far."""
        self._port = port
        self._token = token

    def send(self, method: str, path: str, body: object = None) -> http.client.HTTPResponse:
        """Send a request; return the response with its body unread."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json", "Connection": "close"}
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            fail(f"{method} {path}: {error}")
        if response.status >= 400:
            fail(f"{method} {path}: status {response.status}: {json.loads(response.read())['error']['message']}")
        return response

    def call(self, method: str, path: str) -> Any:
        """Send a request; return the JSON of the response."""
        return json.loads(self.send(method, path).read())

    def dispatch(self, handler: str, operation: str, **request: object) -> Any:
        """Run an operation of a handler; return its response."""
        return json.loads(self.send("POST", f"/v1/handlers/{handler}/{operation}", request).read())

    def chat(self, model: str) -> tuple[float, float]:
        """Ask the question and print the response; return the seconds of the cold start and to the first chunk."""
        messages = [{"role": "user", "content": QUESTION}]
        request = {"model": model, "messages": messages, "stream": True, "max_tokens": 24, "temperature": 0}
        response = self.send("POST", "/v1/chat/completions", request)
        text = ""
        print(f"   {model}> ", end="", flush=True)
        for raw in response:
            data = raw.decode().strip().removeprefix("data: ")
            if data.startswith("{"):
                chunk = json.loads(data)
                if "error" in chunk:
                    fail(f"{model}: {chunk['error']['message']}")
                for choice in chunk["choices"]:
                    content = (choice["delta"].get("content") or "").replace("\n", " ")
                    print(content, end="", flush=True)
                    text += content
        print()
        if not text.strip():
            fail(f"{model}: the response is empty")
        timing = dict(re.findall(r"(\w+);dur=([\d.]+)", response.headers["Server-Timing"] or ""))
        return float(timing["activate"]) / 1000, float(timing["handler"]) / 1000

    def states(self) -> dict[str, str]:
        """Return the state of each handler of the demo."""
        handlers = {handler["name"]: handler for handler in self.call("GET", "/admin/handlers")["handlers"]}
        for name in HANDLERS:
            if name not in handlers:
                fail(f"the plugin {name} is not installed; run make setup")
            if handlers[name]["reason"] is not None and handlers[name]["state"] not in ("cold", "idle"):
                fail(f"{name} is {handlers[name]['state']}: {handlers[name]['reason']}")
        return {name: handlers[name]["state"] for name in HANDLERS}

    def memory(self) -> dict[str, Any]:
        """Return the memory report of the host."""
        memory: dict[str, Any] = self.call("GET", "/admin/memory")
        self.pids |= {*memory["fork_server_pids"], *(worker["pid"] for worker in memory["workers"].values())}
        return memory


def fail(message: str) -> NoReturn:
    """End the demo with an error."""
    raise SystemExit(f"demo: {message}")


def free_port() -> int:
    """Return a free loopback port."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def environment(token: str, data: str, **settings: str) -> dict[str, str]:
    """Return the environment of the host, without the caller's settings for other hosts."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("HANDLER_HOST_")}
    variables["HANDLER_HOST_ADMIN_TOKEN"] = token
    variables["HANDLER_HOST_DATA_DIR"] = data
    # The demo starts with nothing learned and leaves nothing behind.
    variables["HANDLER_HOST_MEMORY__STATE_FILE"] = os.devnull
    # The SDKs must reach the host directly, also where a proxy is configured.
    for name in ("NO_PROXY", "no_proxy"):
        variables[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1", "localhost"]))
    return variables | {f"HANDLER_HOST_{name}": value for name, value in settings.items()}


def command(port: int, data: str, *more: str) -> list[str]:
    """Return the command that starts the host, with a configuration in which the SDKs use this run's port."""
    config = Path(data, "host.toml")
    config.write_text(CONFIG.read_text().replace("8080", str(port)))
    return [sys.executable, "-m", "handler_host", "serve", "--config", str(config), *more]


@contextlib.contextmanager
def running_host(*, eager: bool) -> Iterator[Host]:
    """Run a host during the block; after it, no process of the host is left."""
    with tempfile.TemporaryFile("w+") as log, tempfile.TemporaryDirectory(prefix="handler-host-demo-") as data:
        host = start(log, data, lean="off" if eager else "auto")
        try:
            yield host
        finally:
            stop(host)


def start(log: IO[str], data: str, *, lean: str) -> Host:
    """Start a host with its data in ``data``; try another port if this one has been taken."""
    reason = ""
    for _ in range(3):
        port, token = free_port(), secrets.token_urlsafe(24)
        # Packages that are compiled meanwhile would change the figures between two handlers.
        settings = environment(token, data, WORKERS__LINGER="1s", WORKERS__COMPILE_LEAN="false", DEFAULTS__LEAN=lean)
        process = subprocess.Popen(
            command(port, data, "--log-level", "error"), env=settings, stdout=subprocess.PIPE, stderr=log, text=True
        )
        host = Host(process, port, token)
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
        except SystemExit:
            stop(host)
            raise
        if line.startswith("ready "):
            return host
        stop(host)
        log.seek(0)
        reason = log.read()
        if "cannot listen" not in reason:
            break
    fail(f"the host did not start:\n{reason}")


def stop(host: Host) -> None:
    """Stop the host, with SIGTERM first; fail if a process of it is left."""
    host.pids |= set(descendants(host.process.pid))
    host.process.terminate()
    try:
        host.process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        host.process.kill()
        host.process.wait()
    if host.process.stdout is not None:
        host.process.stdout.close()
    deadline = time.monotonic() + EXIT_TIMEOUT_S
    while left := [pid for pid in host.pids if Path(f"/proc/{pid}").exists()]:
        if time.monotonic() > deadline:
            fail(f"processes are left: {left}")
        time.sleep(0.05)


def descendants(pid: int) -> list[int]:
    """Return the PIDs of all descendants of a process."""
    pids: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split()):
                pids += [child, *descendants(child)]
    return pids


class Demo:
    """The steps of the demo, and the memory after each."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._rows: list[tuple[str, dict[str, Any]]] = []
        self._steps = 0

    def step(self, *title: str) -> None:
        """Print the title of the next step."""
        self._steps += 1
        print(f"\n{self._steps}. " + "\n   ".join(title))

    def states(self) -> None:
        """Print the states of the handlers."""
        states = self._host.states()
        distinct = set(states.values())
        if len(distinct) == 1:
            print(f"   {', '.join(states)} are {distinct.pop()}")
        else:
            print("   " + ", ".join(f"{name} is {state}" for name, state in states.items()))

    def chat(self, model: str) -> None:
        """Chat with a cold handler and print the time of its cold start."""
        cold, first = self._host.chat(model)
        if not cold:
            fail(f"{model} was not cold")
        print(f"   (cold start {cold:.2f} s, first chunk after {first:.2f} s)")
        self.record_memory(f"{model} has answered")

    def store_questions(self) -> None:
        """Store the questions with sheets and read them back."""
        host = self._host
        rows = [{"user_id": "demo", "event": "question", "text": QUESTION, "data": name} for name in HANDLERS[:-1]]
        host.dispatch("sheets", "log.append", rows=rows)
        count = host.dispatch("sheets", "states.increment", name="questions", by=len(rows))["value"]
        tail = host.dispatch("sheets", "log.tail", user_id="demo")["rows"]
        mode = host.dispatch("sheets", "status")["mode"]
        if (mode, count, [row["data"] for row in tail]) != ("local", len(rows), [row["data"] for row in rows]):
            fail(f"sheets did not store the questions: {mode}, {count}, {tail}")
        print(f"   {mode} workbook: {len(tail)} rows in the log, {count} questions counted")

    def record_memory(self, label: str, *, quiet: bool = False) -> None:
        """Read the memory, keep it for the table, and print it."""
        memory = self._host.memory()
        self._rows.append((label, memory))
        if quiet:
            return
        parts = [f"host {memory['host'] / MB:.0f}"]
        if memory["fork_server"] is not None:
            parts.append(f"fork server {memory['fork_server'] / MB:.0f}")
        parts += [f"{name} {worker['pss'] / MB:.0f}" for name, worker in sorted(memory["workers"].items())]
        print(f"   memory: {memory['used'] / MB:.0f} MB ({', '.join(parts)})")

    def unload(self) -> None:
        """Unload the handlers one by one and print the receipts."""
        for name in reversed(HANDLERS):
            receipt = self._host.call("POST", f"/admin/handlers/{name}/unload")
            freed = receipt["bytes_given_back"] / MB
            if receipt["generation"] is None or freed < 1:
                fail(f"the unload of {name} freed no memory: {receipt}")
            print(
                f"   {name}: unloaded generation {receipt['generation']} in {receipt['seconds'] * 1000:.0f} ms, "
                f"{freed:.0f} MB freed, {receipt['killed']} dispatches killed"
            )
            self.record_memory(f"{name} is unloaded", quiet=True)

    def wait_for_fork_server_exit(self) -> None:
        """Wait until only the host process is left."""
        deadline = time.monotonic() + 30
        while self._host.memory()["fork_server"] is not None:
            if time.monotonic() > deadline:
                fail("the fork server did not exit")
            time.sleep(0.1)

    def table(self) -> list[str]:
        """Return the memory of all steps as lines; fail if more is used at the end than at the start."""
        full = "█" if (sys.stdout.encoding or "").lower().startswith("utf") else "#"
        largest = max(memory["used"] for _, memory in self._rows)
        heads = ("host", "fork", *HANDLERS, "all")
        widths = [max(4, len(head)) for head in heads]
        lines = [f"{TABLE:<20} " + " ".join(head.rjust(width) for head, width in zip(heads, widths, strict=True))]
        for label, memory in self._rows:
            workers = [memory["workers"].get(name, {}).get("pss") for name in HANDLERS]
            figures = [memory["host"], memory["fork_server"], *workers, memory["used"]]
            cells = (
                (f"{figure / MB:.0f}" if figure is not None else "-").rjust(width)
                for figure, width in zip(figures, widths, strict=True)
            )
            bar = full * max(1, round(MAX_BAR * memory["used"] / largest))
            lines.append(f"{label:<20} {' '.join(cells)} {bar}")
        growth = (self._rows[-1][1]["used"] - self._rows[0][1]["used"]) / MB
        if growth > TOLERANCE_MB:
            fail(f"the memory is not free again: {growth:.1f} MB more than at the start")
        return lines


def write_table(path: Path, lines: list[str]) -> None:
    """Replace the table in a page."""
    text, count = re.subn(rf"(?m)^{TABLE} .*\n(?:(?!```).*\n)*", "\n".join(lines) + "\n", path.read_text("utf-8"))
    if count != 1:
        fail(f"{path} has {count} tables that begin with {TABLE!r}, not one")
    path.write_text(text, "utf-8")


def run_demo(*, eager: bool, short: bool, page: Path | None) -> None:
    """Run all steps, or only the first two; write the table into ``page``, too."""
    with running_host(eager=eager) as host:
        demo = Demo(host)
        demo.step("The host knows its handlers without importing them.")
        demo.states()
        demo.record_memory("all cold")

        demo.step("A first chat with gpt_e, a small local model in its own worker:", f'"{QUESTION}"')
        demo.chat("gpt_e")
        if short:
            return

        demo.step(
            "The same question to four real SDKs, each in its own worker. Their provider is",
            "this host itself: it has all their protocols, and gpt_e answers.",
        )
        for name in SDKS:
            demo.chat(name)

        demo.step("sheets stores the questions in a local workbook. Then all are idle:")
        demo.store_questions()
        demo.states()
        demo.record_memory("sheets has answered")

        demo.step("An operator frees the memory at once: POST /admin/handlers/NAME/unload")
        demo.unload()

        demo.step("The fork server has no worker left and exits, too.")
        demo.wait_for_fork_server_exit()
        demo.record_memory("memory is back")
        lines = demo.table()
        print("", *lines, sep="\n")
        if page is not None:
            write_table(page, lines)
    print("\nThe host has stopped, and none of its processes is left. `make serve` keeps it running.")
    if eager:
        print("All imports were eager. `make demo` shows the same with lean imports.")
    else:
        print("Imports were lean where compiled. `make demo ARGS=--eager` shows the same without lean imports.")


def serve() -> None:
    """Print what to try, and become the host."""
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
        f"""Try in another terminal:

  curl {url}/v1/handlers
  curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "gpt_e", "stream": true, "messages": [{{"role": "user", "content": "Who are you?"}}]}}'

  export HANDLER_HOST_URL={url} HANDLER_HOST_ADMIN_TOKEN={token}
  curl -H "Authorization: Bearer $HANDLER_HOST_ADMIN_TOKEN" {url}/admin/memory
  curl -H "Authorization: Bearer $HANDLER_HOST_ADMIN_TOKEN" -X POST {url}/admin/handlers/gpt_e/unload

  {Path(sys.executable).parent / "handler-host"} ps        # also chat, unload, memory: see --help

The dashboard is at {url}/admin/ (sign in with the token above).

"""
    )
    sys.stderr.flush()
    data = SERVED / str(port)
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.execve(sys.executable, command(port, str(data)), environment(token, str(data)))


def exit_on_signal(number: int, _: object) -> None:
    """End on a signal as on an error, so that the host is stopped."""
    sys.exit(f"demo: not complete after {TIMEOUT_S} s" if number == signal.SIGALRM else 128 + number)


def main() -> None:
    """Run the demo, or serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true", help="print what to try and keep the host running")
    parser.add_argument("--short", action="store_true", help="run the first two steps only")
    parser.add_argument("--eager", action="store_true", help="import the SDKs as they are written, not lean")
    parser.add_argument("--page", type=Path, metavar="FILE", help="page whose table is replaced")
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace", line_buffering=True)
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, exit_on_signal)
    signal.alarm(TIMEOUT_S)
    run_demo(eager=arguments.eager, short=arguments.short, page=arguments.page)


if __name__ == "__main__":
    main()
