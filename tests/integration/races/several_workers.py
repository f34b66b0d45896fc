"""A handler that has grown to several workers, for tests with the fixture ``any_load_is_enough``."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from handler_host.lifecycle import processor_load
from handler_host.plugin.errors import HostError
from tests.support import SupervisorHarness, install_puppet, supervisor_harness, until

MB = 1024**2
SEVERAL = {
    "max_workers": 2,
    "max_concurrency": 4,
    "target_requests": 1,
    "grow_after": 0.05,
    "shrink_after": 60.0,
    "stop_grace": 2.0,
    "preload": (),
}


@asynccontextmanager
async def grown(root: Path, dispatches: int = 2, **options: Any) -> Any:
    """Run a puppet that has grown to its limit, with these dispatches in flight; yield the host and the dispatches."""
    install_puppet(root)
    policy = {**SEVERAL, **options.pop("policy", {})}
    async with supervisor_harness(root, policy=policy, **options) as host:
        host.control.make(*(f"end{number}" for number in range(dispatches)))
        tasks = [host.start(hold(host, number)) for number in range(dispatches)]
        await until(lambda: len(states(host)) == policy["max_workers"] and {"active", "idle"}.issuperset(states(host)))
        # From now on no load suffices: a crash must not be answered by another worker while the test looks.
        processor_load.BOUND_SHARE = 1000.0
        yield host, tasks
        for task in tasks:
            task.cancel()


async def hold(host: SupervisorHarness, number: int) -> Any:
    """Run a dispatch that ends when the test says so; return its process ID or error."""
    try:
        return (await host.ask("puppet", "script", steps=[f"wait:end{number}"]))["pid"]
    except HostError as error:
        return error


def states(host: SupervisorHarness, name: str = "puppet") -> list[str]:
    return [worker.state for worker in host.supervisor.status(name).workers]


def pids(host: SupervisorHarness) -> list[int]:
    return [worker.pid for worker in host.supervisor.status("puppet").workers if worker.pid is not None]
