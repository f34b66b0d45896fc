"""Fixtures for a handler in front of a provider on loopback.

A module that uses ``worker`` and ``provider`` has a fixture ``running``, which yields both.
"""

from __future__ import annotations

import pytest

from handler_host.testing import Upstream, WorkerUnderTest


@pytest.fixture
def worker(running: tuple[WorkerUnderTest, Upstream]) -> WorkerUnderTest:
    return running[0]


@pytest.fixture
def provider(running: tuple[WorkerUnderTest, Upstream]) -> Upstream:
    """Return the provider without the script and the requests of the test before."""
    running[1].reset()
    return running[1]
