"""The pytest fixtures: ``upstream``, ``worker``, ``handler_host``.

``pytest_plugins = ["handler_host.testing.fixtures"]`` in a test module or the topmost ``conftest.py`` enables them.
They are not a ``pytest11`` entry point: pytest would load them in every run wherever the host is installed, and rewrite
the assertions of all of its modules.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from handler_host.testing.processes import HostFactory, WorkerFactory, host_under_test, worker_under_test
from handler_host.testing.upstream import Upstream


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """Give a scripted provider on loopback, in three protocols."""
    with Upstream().run() as running:
        yield running


@pytest.fixture
def worker() -> Iterator[WorkerFactory]:
    """Give a function that starts workers, with the arguments of ``worker_under_test``."""
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(worker_under_test(*arguments, **options))


@pytest.fixture
def handler_host() -> Iterator[HostFactory]:
    """Give a function that starts hosts, with the arguments of ``host_under_test``."""
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(host_under_test(*arguments, **options))
