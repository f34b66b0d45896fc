"""The pytest plugin of ``handler-host check``: writes an event for each test, and limits the time of each.

``python -m pytest -p handler_host.testing.pytest_events`` appends the events, as lines of JSON, to the file that the
environment variable ``HANDLER_HOST_TEST_EVENTS`` names. A file, because pytest-xdist runs tests in further processes.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Literal

import msgspec
import pytest

EVENTS_VARIABLE = "HANDLER_HOST_TEST_EVENTS"
TIMEOUT_VARIABLE = "HANDLER_HOST_TEST_TIMEOUT"
"""Longest time of each phase of a test (setup, call, teardown) in seconds: no limit without it."""


class TestEvent(msgspec.Struct, omit_defaults=True):
    """A step of the test run."""

    __test__ = False

    kind: Literal["collected", "started", "passed", "skipped", "failed"]
    test: str = ""
    """The node ID of the test; for a module that cannot be imported, its path."""
    count: int = 0
    """Number of collected tests."""
    message: str = ""
    """For a failed test: the first line of its error, with its place."""


def pytest_collection_finish(session: pytest.Session) -> None:
    """Report how many tests there are."""
    _write(TestEvent("collected", count=len(session.items)))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Report a module that cannot be imported."""
    if report.failed:
        _write(TestEvent("failed", report.nodeid, message=_error_line(report)))


def pytest_runtest_logstart(nodeid: str) -> None:
    """Report the start of a test."""
    _write(TestEvent("started", nodeid))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Report the outcome of a test."""
    if report.failed:
        _write(TestEvent("failed", report.nodeid, message=_error_line(report)))
    elif report.skipped or report.when == "call":
        _write(TestEvent(report.outcome, report.nodeid))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, None, None]:
    """Limit the time of the setup."""
    with _time_limit():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, None, None]:
    """Limit the time of the test."""
    with _time_limit():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None, None, None]:
    """Limit the time of the teardown."""
    with _time_limit():
        return (yield)


@contextmanager
def _time_limit() -> Iterator[None]:
    """Fail the test if the block does not end in time; only the main thread can be interrupted."""
    timeout_s = float(os.environ.get(TIMEOUT_VARIABLE, "0"))
    if not timeout_s or threading.current_thread() is not threading.main_thread():
        yield
        return

    def fail(*_: object) -> None:
        pytest.fail(f"did not end within {timeout_s:g} s")

    previous = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _error_line(report: pytest.CollectReport | pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is None:
        lines = [line for line in report.longreprtext.splitlines() if line.strip()]
        return lines[-1].removeprefix("E").strip() if lines else ""
    message: str = crash.message.partition("\n")[0]
    return message if crash.path == __file__ else f"{message} ({os.path.relpath(crash.path)}:{crash.lineno})"


def _write(event: TestEvent) -> None:
    path = os.environ.get(EVENTS_VARIABLE)
    if path is not None:
        # One write per line: several processes append to the file.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, msgspec.json.encode(event) + b"\n")
        finally:
            os.close(descriptor)
