"""A process with a control socket that the system refuses: one clear error, and no descriptor stays open."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from handler_host.config.launchers import LauncherConfig
from handler_host.plugin.errors import OutOfResources
from handler_host.workers.forkserver.client import ForkServerProcess
from handler_host.workers.remote.driver_client import DriverProcess


def open_descriptors() -> list[str]:
    return os.listdir("/proc/self/fd")


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Allow this process to open ``count`` further descriptors."""
    free = [os.dup(0) for _ in range(count + 1)]
    for fd in free:
        os.close(fd)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[count], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def start_driver() -> None:
    DriverProcess("absent", b"{}", LauncherConfig(), {}, lambda places: None)


def start_fork_server() -> None:
    ForkServerProcess((), {}, confined=True)


@pytest.mark.parametrize("count", range(6))
@pytest.mark.parametrize(("start", "name"), [(start_fork_server, "the fork server"), (start_driver, "the driver of")])
async def test_without_descriptors_it_is_refused_and_leaves_none_open(
    start: Callable[[], None], name: str, count: int
) -> None:
    before = open_descriptors()
    with descriptors_left(count), pytest.raises(OutOfResources, match=f"for {name}.*raise ulimit -n"):
        start()
    assert open_descriptors() == before


async def test_interpreter_that_cannot_be_run_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", f"{tmp_path}/python")
    with pytest.raises(OutOfResources, match=f"check whether this user may run {tmp_path}/python"):
        start_fork_server()
