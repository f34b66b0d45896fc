"""Run the tests of a plugin's project, with progress, a time limit for each, and the results so far if one hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from handler_host._internal.units import format_duration
from handler_host.catalog.catalog_entry import CatalogEntry
from handler_host.cli.findings import Finding, Level, join_words
from handler_host.cli.progress import Progress, show_progress

POLL_S = 0.1
SILENCE_MARGIN_S = 30.0
"""Time beyond the limit of one test after which the whole run is killed: code of C cannot be interrupted."""
MAX_SHOWN_ERRORS = 5
_PLUGIN = "handler_host.testing.pytest_events"


class TestRun:
    """The results of a test run, read from the events that its processes append to a file."""

    def __init__(self, events: Path) -> None:
        self._events = events
        self._offset = 0
        self.count = 0
        """Number of collected tests."""
        self.passed: set[str] = set()
        self.skipped: set[str] = set()
        self.failed: dict[str, str] = {}
        """The error of each failed test."""
        self.current = ""
        """The test that was started last."""

    def read_events(self) -> bool:
        """Read the events that are new; return whether there are any."""
        from handler_host.testing.pytest_events import TestEvent

        with self._events.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        complete, newline, _ = data.rpartition(b"\n")
        self._offset += len(complete) + len(newline)
        for line in complete.splitlines():
            event = msgspec.json.decode(line, type=TestEvent)
            if event.kind == "collected":
                self.count = max(self.count, event.count)
            elif event.kind == "started":
                self.current = event.test
            elif event.kind == "failed":
                self.failed.setdefault(event.test, event.message)
            else:
                (self.passed if event.kind == "passed" else self.skipped).add(event.test)
        return bool(complete)

    @property
    def done(self) -> int:
        """Number of tests with a result."""
        return len(self.passed | self.skipped | self.failed.keys())

    @property
    def names(self) -> set[str]:
        """The names of all tests with a result, without their parameters."""
        return {_name(test).partition("[")[0] for test in (*self.passed, *self.skipped, *self.failed)}

    def progress(self) -> str:
        """Return in words how far the run is."""
        return f"running the tests of the project: {self.done} of {self.count}, {_name(self.current)}"


def check_tests(
    path: Path, entries: Sequence[CatalogEntry], environment: Mapping[str, str], timeout_s: float
) -> Iterator[Finding]:
    """Yield the result of the author's tests, and whether they include a conformance class.

    ``timeout_s`` limits each phase of each test.
    """
    try:
        from handler_host.testing.chat_conformance import ChatConformance
        from handler_host.testing.operations_conformance import OperationsConformance
    except ImportError:
        yield Finding(Level.NOTE, "tests", "not run: pip install 'handler-host[testing]'")
        return
    if not (path / "tests").is_dir():
        text = "no directory tests/; base a test class on handler_host.testing.ChatConformance or OperationsConformance"
        yield Finding(Level.WARNING, "tests", text)
        return
    with tempfile.TemporaryDirectory() as directory:
        run = TestRun(Path(directory, "events"))
        yield from _result_findings(run, *_run_tests(path, Path(directory), run, environment, timeout_s))
    shared = _test_names(ChatConformance) & _test_names(OperationsConformance)
    kinds = [kind for kind in (ChatConformance, OperationsConformance) if run.names & (_test_names(kind) - shared)]
    if kinds:
        yield Finding(Level.OK, "tests", f"include {join_words(kind.__name__ for kind in kinds)}")
    elif run.names:
        handlers = ", ".join(entry.name for entry in entries)
        text = (
            "include no conformance class; base one on handler_host.testing.ChatConformance or OperationsConformance "
            f"for {handlers}"
        )
        yield Finding(Level.WARNING, "tests", text)


def _run_tests(
    path: Path, directory: Path, run: TestRun, environment: Mapping[str, str], timeout_s: float
) -> tuple[int | None, str]:
    """Run pytest; return its exit status, or None if it had to be killed, and its output."""
    from handler_host.testing.pytest_events import EVENTS_VARIABLE, TIMEOUT_VARIABLE

    own = {EVENTS_VARIABLE: str(directory / "events"), TIMEOUT_VARIABLE: str(timeout_s)}
    (directory / "events").touch()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", _PLUGIN, "tests"]
    output = directory / "output"
    with output.open("w") as file, show_progress("running the tests of the project") as progress:
        process = subprocess.Popen(
            command, cwd=path, env={**environment, **own}, stdout=file, stderr=subprocess.STDOUT, process_group=0
        )
        try:
            status = _wait(process, run, progress, timeout_s + SILENCE_MARGIN_S)
        finally:
            # The tests' own processes as well: a test that is killed leaves its worker.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    run.read_events()
    return status, output.read_text(errors="replace")


def _wait(process: subprocess.Popen[bytes], run: TestRun, progress: Progress, longest_silence_s: float) -> int | None:
    """Return the exit status of pytest, or None if no test has started or ended for too long."""
    last_event = time.monotonic()
    while process.poll() is None:
        if run.read_events():
            last_event = time.monotonic()
            progress.step = run.progress()
        elif time.monotonic() - last_event > longest_silence_s:
            return None
        with suppress(subprocess.TimeoutExpired):
            process.wait(POLL_S)
    return process.returncode


def _result_findings(run: TestRun, status: int | None, output: str) -> Iterator[Finding]:
    if run.failed:
        failures = _describe_failures(run.failed)
        text = f"{len(run.failed)} of {max(run.done, run.count)} tests fail: {failures}; run: pytest"
        yield Finding(Level.PROBLEM, "tests", text)
    if status is None:
        limit = format_duration(SILENCE_MARGIN_S)
        text = (
            f"stopped, because {_name(run.current) or 'pytest'} did not end, not even {limit} after its time limit; "
            f"{len(run.passed)} of {run.count} tests had passed"
        )
        yield Finding(Level.PROBLEM, "tests", text)
    elif status == 5 and not run.failed:
        yield Finding(Level.WARNING, "tests", "tests/ has no test that pytest finds")
    elif status and not run.failed:
        lines = output.strip().splitlines()[-3:]
        yield Finding(Level.PROBLEM, "tests", f"pytest failed (exit status {status}): {' / '.join(lines)}")
    elif not run.failed:
        skipped = f", {len(run.skipped)} are skipped" if run.skipped else ""
        yield Finding(Level.OK, "tests", f"{len(run.passed)} tests pass{skipped}")


def _describe_failures(failed: Mapping[str, str]) -> str:
    """Return the first errors in words, each with the first test that it failed."""
    tests_by_error: dict[str, list[str]] = {}
    for test, message in failed.items():
        tests_by_error.setdefault(f": {message}" if message else "", []).append(_name(test))
    groups = list(tests_by_error.items())
    shown = [
        f"{tests[0]}{error}" if len(tests) == 1 else f"{tests[0]} and {len(tests) - 1} more{error}"
        for error, tests in groups[:MAX_SHOWN_ERRORS]
    ]
    hidden = sum(len(tests) for _, tests in groups[MAX_SHOWN_ERRORS:])
    return "; ".join(shown) + (f", and {hidden} more" if hidden else "")


def _name(test: str) -> str:
    """Return the name of a test without its module and class, or the module's path."""
    return test.rpartition("::")[2]


def _test_names(kind: type) -> set[str]:
    return {name for base in kind.__mro__ for name in vars(base) if name.startswith("test_")}
