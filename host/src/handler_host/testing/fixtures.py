"""The pytest fixtures: ``upstream``, ``worker``, ``handler_host``.

They are asked for by ``pytest_plugins = ["handler_host.testing.fixtures"]`` in a test module
or the topmost ``conftest.py``. They are no ``pytest11`` entry point: pytest would then load
them in every run of everybody who has the host installed, and rewrite the
assertions of all of its modules.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from handler_host.testing.processes import Host, Worker, host_under_test, worker_under_test
from handler_host.testing.upstream import Upstream


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """Give a provider on loopback that does what the test says, in three protocols."""
    with Upstream().running() as running:
        yield running


@pytest.fixture
def worker() -> Iterator[Worker]:
    """Give what makes workers: takes the arguments of ``worker_under_test``."""
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(worker_under_test(*arguments, **options))


@pytest.fixture
def handler_host() -> Iterator[Host]:
    """Give what runs hosts: takes the arguments of ``host_under_test``."""
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(host_under_test(*arguments, **options))
