"""What the tests of a handler are made with: a scripted upstream, real workers, and conformance classes.

In a test module or a ``conftest.py``::

    pytest_plugins = ["handler_host.testing.fixtures"]  # the fixtures upstream, worker, handler_host

    from handler_host.testing import ChatConformance

    class TestMyGpt(ChatConformance):
        handler = "my_gpt"

Nothing of the host imports this package; pytest is needed for the fixtures and the
conformance classes, and for nothing else of it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handler_host.testing.chat_conformance import ChatConformance, ChatConformanceV1
    from handler_host.testing.operations_conformance import (
        ANYTHING,
        Example,
        OperationsConformance,
        OperationsConformanceV1,
    )
    from handler_host.testing.processes import (
        Host,
        HostUnderTest,
        Worker,
        WorkerUnderTest,
        host_under_test,
        worker_under_test,
    )
    from handler_host.testing.script import Asked, Called, Raw, Received, Reply, Silence, Status, Step, Turn
    from handler_host.testing.upstream import Upstream

__all__ = [
    "ANYTHING",
    "Asked",
    "Called",
    "ChatConformance",
    "ChatConformanceV1",
    "Example",
    "Host",
    "HostUnderTest",
    "OperationsConformance",
    "OperationsConformanceV1",
    "Raw",
    "Received",
    "Reply",
    "Silence",
    "Status",
    "Step",
    "Turn",
    "Upstream",
    "Worker",
    "WorkerUnderTest",
    "host_under_test",
    "worker_under_test",
]

_MODULES = {
    "script": ("Asked", "Called", "Raw", "Received", "Reply", "Silence", "Status", "Step", "Turn"),
    "upstream": ("Upstream",),
    "processes": ("Host", "HostUnderTest", "Worker", "WorkerUnderTest", "host_under_test", "worker_under_test"),
    "chat_conformance": ("ChatConformance", "ChatConformanceV1"),
    "operations_conformance": ("ANYTHING", "Example", "OperationsConformance", "OperationsConformanceV1"),
}

if "pytest" in sys.modules:
    # So that a failed assertion of a conformance class shows its values.
    sys.modules["pytest"].register_assert_rewrite(
        *(f"handler_host.testing.{module}" for module in ("conformance", "chat_conformance", "provider_conformance")),
        *(f"handler_host.testing.{module}" for module in ("operations_conformance", "processes")),
    )


def __getattr__(name: str) -> Any:
    """Import what is asked for: the upstream alone needs neither pytest nor the host's server."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
