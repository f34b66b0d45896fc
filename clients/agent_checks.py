"""Run an agent against the host, each column as a task of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from clients.agents import Agent
from clients.serving import LEFT_OUT, NOT_SENT, OK, Finished, find_all, has_media, is_ended, serving
from clients.stand_in.model import CACHED_TOKENS, FINAL, LONG_TURNS, SIGNATURE, SOURCE, TOO_LONG, WORD
from clients.stand_in.server import CHATS, Recorded, StandIn

LIMIT_S = 240.0
"""For one run of an agent: machines are slow, but none waits forever."""
TOTAL_LIMIT_S = 1200.0
"""For all runs of an agent on a handler, so that one that hangs in each of them does not hold up the others."""
PIXEL_ROWS = b"".join(b"\0" + bytes((250, 10, 10)) * 32 for _ in range(32))
PDF = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]>>endobj
trailer<</Root 1 0 R>>
"""
ODD_RESULT = "ODD-2718"
"""The start of each result of the MCP server."""
REASONING_KEYS = ("thinking", "reasoning", "reasoning_effort", "thinkingConfig")


def run_agent(agent: Agent, handler: str, keep: Path | None) -> dict[str, str]:
    """Return the result of each column."""
    with (
        tempfile.TemporaryDirectory(prefix="clients-") as directory,
        serving(agent.pairs[handler]) as (stand_in, host),
    ):
        runs = Runs(agent, host.url, stand_in, Path(directory), keep)
        columns = check_write(runs)
        for name in ("image", "document"):
            if name not in agent.lacks:
                columns[name] = check_media(runs, name)
        if agent.has_search:
            columns["search"] = check_search(runs)
        if agent.resume:
            columns["resume"] = check_resume(runs)
        if "parallel" not in agent.lacks:
            columns["parallel"] = check_files(runs, "parallel", "task-both {work}", 2)
        if "history" not in agent.lacks:
            columns["history"] = check_files(runs, "history", "task-long {work}", LONG_TURNS)
        if agent.odd_files or agent.odd_arguments:
            columns["schemas"] = check_schemas(runs)
        if agent.compact_files or agent.compact_arguments or agent.compact_prompt:
            columns["compaction"] = check_compaction(runs)
        columns["retry"] = check_retry(runs)
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
        self._deadline = time.monotonic() + TOTAL_LIMIT_S

    def run(
        self,
        name: str,
        task: str,
        *,
        media: str = "",
        files: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        until: Callable[[list[Recorded]], bool] | None = None,
        resume: bool = False,
    ) -> Finished:
        """Run the agent to its end, or interrupt it when ``until`` holds; ``resume`` continues the run of this name."""
        work = self._directory / name
        work.mkdir(exist_ok=resume)
        attached = [write_media(work, media)] if media else []
        for path, text in (files or {}).items():
            (work / path).parent.mkdir(exist_ok=True)
            (work / path).write_text(text)
        prompt = task
        if not task.startswith("/"):
            prompt = f"Do this: {task.format(work=work)}. Use your tools, one call at a time, and report."
        command = [*self.agent.command(prompt, attached if self.agent.can_attach else []), *arguments]
        if resume:
            start = list(self.agent.resume)
            shared = sum(word == second for word, second in zip(start, command, strict=False))
            command = start + command[shared:]
        variables = {**os.environ, "HOME": str(self._home), **self.agent.environ(self.url)}
        self._stand_in.requests.clear()
        limit_s = max(1.0, min(LIMIT_S, self._deadline - time.monotonic()))
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
                has_ended = wait(process, limit_s, until and (lambda: until(self._stand_in.requests)))
            finally:
                kill_group(process)
            output.seek(0)
            limit = "" if has_ended else f"\nerror: the client did not end within {limit_s:.0f} s"
            finished = Finished(output.read() + limit, work, list(self._stand_in.requests))
        if self._keep is not None:
            finished.write(self._keep, f"{name}-resumed" if resume else name)
        return finished


def wait(process: subprocess.Popen[bytes], limit_s: float, until: Callable[[], bool] | None) -> bool:
    """Wait for the end of the process; interrupt it when ``until`` holds. Return whether it ended in time."""
    deadline = time.monotonic() + limit_s
    while process.poll() is None and time.monotonic() < deadline:
        if until is not None and until():
            time.sleep(2)  # in the middle of the response
            os.killpg(process.pid, signal.SIGINT)
            until, deadline = None, time.monotonic() + 15
        time.sleep(0.1)
    return process.returncode is not None


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


def has_count(output: str) -> bool:
    """Return whether the client shows the cached tokens, of one turn or of several."""
    return any(str(CACHED_TOKENS * turns) in output for turns in range(1, 6))


def check_write(runs: Runs) -> dict[str, str]:
    """Return the columns of a task of three turns: write a file, read it, report."""
    run = runs.run("write", "task-write {work}/hello.txt")
    # Without tools it is a side request, such as for a title; Codex has them in its `input`.
    chats = [request for request in run.requests if request.protocol in CHATS and any(find_all(request.body, "tools"))]
    last = json.dumps(chats[-1].body) if chats else ""
    is_reasoned = any(list(find_all(request.body, key)) for request in chats for key in REASONING_KEYS)
    has_signed = any(request.is_signed for request in chats[:-1])
    is_cached = "cache_control" in run.sent or "prompt_cache_key" in run.sent or has_count(run.output)
    streamed = any(request.body.get("stream") or "stream" in request.path for request in chats)
    return {
        "stream": run.why() if FINAL not in run.output else OK if streamed else NOT_SENT,
        "tools": OK if has_written(run) else run.why(),
        "reasoning": NOT_SENT if not is_reasoned else OK if SIGNATURE in last or not has_signed else "signature lost",
        "caching": OK if is_cached else NOT_SENT,
    }


def check_media(runs: Runs, kind: str) -> str:
    """Return whether a file reaches the provider."""
    name = "picture.png" if kind == "image" else "paper.pdf"
    run = runs.run(kind, f"task-look {{work}}/{name}", media=kind)
    return OK if has_media(run, kind) and FINAL in run.output else run.why()


def check_search(runs: Runs) -> str:
    """Return whether the provider is asked to search, and its sources arrive; a translated handler has no search."""
    run = runs.run("search", "task-search")
    if FINAL not in run.output:
        return run.why()
    searched = any(request.reply.searched for request in run.requests)
    return LEFT_OUT if not searched else OK if SOURCE in run.sent + run.output else "sources lost"


def has_written(run: Finished) -> bool:
    """Return whether the agent has written the task's file, and reported the end."""
    path = run.directory / "hello.txt"
    return path.exists() and WORD in path.read_text() and FINAL in run.output


def check_resume(runs: Runs) -> str:
    """Return whether a second session sends the first one's tool results and signatures, and finishes."""
    run = runs.run("write", "task-write {work}/hello.txt", resume=True)
    has_signed = any(request.is_signed for request in run.requests)
    if FINAL not in run.output or WORD not in run.sent:
        return run.why()
    return OK if SIGNATURE in run.sent or not has_signed else "signature lost"


def check_files(runs: Runs, column: str, task: str, count: int) -> str:
    """Return whether the contents of all files, which the model reads at once or one by one, reach the provider."""
    marks = [f"mark-{number}-of-{count}" for number in range(count)]
    rest = "a line of the file\n" * 100
    files = {f"{number}.txt": f"{mark}\n{rest}" for number, mark in enumerate(marks)}
    run = runs.run(column, task, files=files)
    if FINAL not in run.output:
        return run.why()
    last = json.dumps(run.requests[-1].body)
    return OK if all(mark in last for mark in marks) else "a result is lost"


def check_schemas(runs: Runs) -> str:
    """Return whether a tool of an MCP server with odd schemas is called, and its result reaches the provider."""
    run = runs.run("schemas", "task-odd", files=runs.agent.odd_files, arguments=runs.agent.odd_arguments)
    return OK if FINAL in run.output and ODD_RESULT in run.sent else run.why()


def check_compaction(runs: Runs) -> str:
    """Return whether the agent compacts its session during a task or before the next one, and finishes."""
    agent = runs.agent
    task = "task-write {work}/hello.txt"
    if agent.compact_prompt:
        compacted = runs.run("write", agent.compact_prompt, resume=True)
        requests = compacted.requests
        (compacted.directory / "hello.txt").unlink()
        run = runs.run("write", task, resume=True)
    else:
        run = runs.run("compaction", task, files=agent.compact_files, arguments=agent.compact_arguments)
        requests = run.requests
    has_compacted = any(request.reply.compacted for request in requests)
    return run.why() if not has_written(run) else OK if has_compacted else NOT_SENT


def check_retry(runs: Runs) -> str:
    """Return whether the agent finishes although the provider is busy twice."""
    run = runs.run("retry", "task-retry")
    return OK if FINAL in run.output else run.why()


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
