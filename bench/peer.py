"""Compare this host with LiteLLM's proxy, in front of the same provider: ``python -m bench.peer``.

The proxy runs in an environment of its own, ``.venv-peer``, which the first run makes
from ``requirements/peer.txt``. Both reach the provider by OpenAI's SDK or protocol. The
same load generator requests OpenAI's chat completions from both, in alternating runs.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from pathlib import Path

from bench import providers, servers, tables
from bench.dispatch import load

IDLE_TARGET = 1 / 8
THROUGHPUT_TARGET = 8.0
ROOT = Path(__file__).parents[1]
ENVIRONMENT = ROOT / ".venv-peer"
LOCK = ROOT / "requirements" / "peer.txt"
FORBIDDEN = ("1.107.0", "1.82.7", "1.82.8")
"""Releases of litellm that must not run."""
PROXY = """\
model_list:
  - model_name: gpt_a
    litellm_params:
      model: openai/m
      api_base: {url}/v1
      api_key: none
      max_retries: 0
litellm_settings:
  telemetry: false
"""
HOST = """\
[server]
port = {port}
[defaults]
max_queue = 512
idle_after = "never"
[handlers.gpt_a]
base_url = "{url}/v1"
model = "m"
retries = 0
"""
KEY = f"sk-{secrets.token_hex(32)}"
"""The API key for both servers: the proxy does not start without one."""
CASES = ((1, False), (32, False), (1, True), (32, True))
"""Connections, and whether responses are streamed."""


def environment() -> tuple[Path, str]:
    """Return the interpreter of the proxy's environment, made if missing, and the version of litellm in it."""
    python = ENVIRONMENT / "bin" / "python"
    stamp, lock_hash = ENVIRONMENT / ".installed", hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != lock_hash:
        print(f"making {ENVIRONMENT} from {LOCK.relative_to(ROOT)} …", file=sys.stderr)
        venv.create(ENVIRONMENT, clear=True, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--compile", "--require-hashes"]
        command += ["--no-deps", "--only-binary=:all:", "-r", str(LOCK)]
        installed = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
        if installed.returncode != 0:
            raise SystemExit(f"{LOCK.name} could not be installed:\n{installed.stderr[-2000:]}")
        stamp.write_text(lock_hash)
    script = "from importlib.metadata import version; print(version('litellm'))"
    version = subprocess.run([str(python), "-c", script], check=True, capture_output=True, text=True).stdout.strip()
    if version in FORBIDDEN:
        raise SystemExit(f"litellm {version} is a withdrawn release; remove {ENVIRONMENT}")
    return python, version


@contextlib.contextmanager
def running(
    command: list[str], port: int, health: str, variables: dict[str, str]
) -> Iterator[tuple[servers.Server, float]]:
    """Start a server; yield it with the seconds until its health route responded."""
    with tempfile.TemporaryFile("w+") as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, env=servers.inherited() | variables, stdout=log, stderr=subprocess.STDOUT, text=True
        )
        server = servers.Server(process, f"http://127.0.0.1:{port}", log)
        try:
            while not is_up(f"{server.url}{health}"):
                if process.poll() is not None or time.perf_counter() - started > 120:
                    log.seek(0)
                    raise SystemExit(f"{command[0]} did not start:\n{log.read()[-2000:]}")
                time.sleep(0.01)
            yield server, time.perf_counter() - started
        finally:
            servers.stop(process)


def is_up(url: str) -> bool:
    """Return whether a GET gets status 200."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


@contextlib.contextmanager
def proxy(python: Path, url: str) -> Iterator[tuple[servers.Server, float]]:
    """Run LiteLLM's proxy, with one worker process (its default)."""
    with tempfile.TemporaryDirectory(prefix="bench-peer-") as directory:
        config, port = Path(directory, "config.yaml"), providers.free_port()
        config.write_text(PROXY.format(url=url))
        command = [str(python.with_name("litellm")), "--config", str(config), "--host", "127.0.0.1"]
        command += ["--port", str(port), "--telemetry", "False"]
        # Without this it fetches a price list from the network.
        variables = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MASTER_KEY": KEY}
        with running(command, port, "/health/liveliness", variables) as server:
            yield server


@contextlib.contextmanager
def host(url: str) -> Iterator[tuple[servers.Server, float]]:
    """Run this host."""
    with tempfile.TemporaryDirectory(prefix="bench-host-") as directory:
        config, port = Path(directory, "host.toml"), providers.free_port()
        config.write_text(HOST.format(url=url, port=port))
        command = [sys.executable, "-m", "handler_host", "serve", "--config", str(config)]
        variables = {"HANDLER_HOST_API_KEYS": KEY, "HANDLER_HOST_ADMIN_TOKEN": KEY, "OPENAI_API_KEY": "none"}
        with running(command, port, "/health/live", variables) as server:
            yield server


class Peak:
    """The highest PSS of a server while the block runs."""

    def __init__(self, server: servers.Server) -> None:
        self.bytes = 0
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(0.5):
            self.bytes = max(self.bytes, self._server.pss())


def measure(started: tuple[servers.Server, float], requests: int) -> dict[str, float]:
    """Return the figures of a freshly started server."""
    server, ready = started
    figures = {"ready": ready, "idle": float(servers.settle(server))}
    request = {"model": "gpt_a", "messages": [{"role": "user", "content": providers.QUESTION}]}
    authorization = f"Bearer {KEY}"
    content = server.post("/v1/chat/completions", request, Authorization=authorization)["choices"][0]["message"][
        "content"
    ]
    if not content:
        raise SystemExit(f"{server.url}: empty response")
    url = f"{server.url}/v1/chat/completions"
    with Peak(server) as peak:
        for connections, streamed in CASES:
            body = {**request, "stream": streamed}
            load(url, connections, 2 * connections, body, streamed, KEY)
            count = max(50, requests // 4) if connections == 1 else requests
            loaded = load(url, connections, count, body, streamed, KEY)
            for key in ("per_second", "median", "p99"):
                figures[f"{key} {connections} {streamed}"] = loaded[key]
    figures["peak"] = float(peak.bytes)
    figures["after"] = float(servers.settle(server))
    return figures


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--requests", type=int, default=600, help="requests at 32 connections in each run")
    parser.add_argument("--provider", choices=("aimock", "own"), default=None, help="default: aimock, if there is npm")
    options = parser.parse_args()
    python, version = environment()
    which = options.provider or providers.best()
    print(*tables.header("openai"), sep="\n")
    print(f"peer: litellm[proxy] {version}; provider: {which}; runs: {options.runs} of each, alternating; medians")
    samples: dict[str, list[dict[str, float]]] = {"peer": [], "host": []}
    with providers.provider(which) as url:
        for _ in range(options.runs):
            with proxy(python, url) as server:
                samples["peer"].append(measure(server, options.requests))
            with host(url) as server:
                samples["host"].append(measure(server, options.requests))
    middle = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in samples.items()
    }
    report(middle)


def report(middle: dict[str, dict[str, float]]) -> None:
    """Print the tables of the medians."""
    peer, ours = middle["peer"], middle["host"]
    named = (("LiteLLM's proxy", peer), ("this host", ours))
    share = ours["idle"] / peer["idle"]
    mb = 2**20
    tables.print_table(
        "Start and memory, this host and LiteLLM's proxy",
        ["server", "ready s", "idle MB", "of the peer", "under load MB", "idle after load MB", "target"],
        [
            (
                name,
                figures["ready"],
                f"{figures['idle'] / mb:.0f}",
                f"{figures['idle'] / peer['idle']:.3f}",
                f"{figures['peak'] / mb:.0f}",
                f"{figures['after'] / mb:.0f}",
                "" if figures is peer else f"idle <= 1/8: {tables.verdict(share, IDLE_TARGET)}",
            )
            for name, figures in named
        ],
        [
            "MB are 2**20 bytes of PSS of all processes. Idle: ready, no request yet (the host's handler is cold).",
            "Under load: the highest of all loads. Idle after load: the host's handler stays active here.",
        ],
    )
    rows = []
    for connections, streamed in CASES:
        key = f"{connections} {streamed}"
        times = ours[f"per_second {key}"] / peer[f"per_second {key}"]
        for name, figures in named:
            rows.append(
                (
                    f"SSE, {providers.CHUNKS} chunks" if streamed else "JSON",
                    connections,
                    name,
                    f"{figures[f'per_second {key}']:.0f}",
                    tables.ratio(figures[f"per_second {key}"], peer[f"per_second {key}"]),
                    f"{figures[f'median {key}'] * 1000:.1f}",
                    f"{figures[f'p99 {key}'] * 1000:.1f}",
                    ""
                    if figures is peer
                    else f">= {THROUGHPUT_TARGET:g}x: {tables.verdict(times, THROUGHPUT_TARGET, at_least=True)}",
                )
            )
    tables.print_table(
        "Chat completions, this host (gpt_a) and LiteLLM's proxy",
        ["response", "connections", "server", "requests/s", "of the peer", "median ms", "p99 ms", "target"],
        rows,
        ["Client and provider share the machine with the server."],
    )
    missed = [str(row[-1]) + f" ({row[0]}, {row[1]} connections: {row[4]})" for row in rows if "MISSED" in str(row[-1])]
    if missed:
        print("\nmissed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
