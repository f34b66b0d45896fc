"""Tools for a plugin's tests: a scripted provider, real workers and hosts, and conformance classes.

In a test module or a ``conftest.py``::

    pytest_plugins = ["handler_host.testing.fixtures"]  # the fixtures upstream, worker, handler_host

    from handler_host.testing import ChatConformance

    class TestMyGpt(ChatConformance):
        handler = "my_gpt"

The host does not import this package. Only the fixtures and the conformance classes need pytest.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handler_host.testing.chat_conformance import ChatConformance, ChatConformanceV1, ChatConformanceV2
    from handler_host.testing.native_conformance import NativeConformance, NativeConformanceV1
    from handler_host.testing.operations_conformance import (
        ANYTHING,
        Example,
        OperationsConformance,
        OperationsConformanceV1,
    )
    from handler_host.testing.processes import (
        HostFactory,
        HostUnderTest,
        WorkerFactory,
        WorkerUnderTest,
        host_under_test,
        worker_under_test,
    )
    from handler_host.testing.script import (
        ParsedRequest,
        Raw,
        RecordedRequest,
        Reply,
        ScriptedToolCall,
        Silence,
        Status,
        Step,
        Turn,
    )
    from handler_host.testing.upstream import Upstream

__all__ = [
    "ANYTHING",
    "ChatConformance",
    "ChatConformanceV1",
    "ChatConformanceV2",
    "Example",
    "HostFactory",
    "HostUnderTest",
    "NativeConformance",
    "NativeConformanceV1",
    "OperationsConformance",
    "OperationsConformanceV1",
    "ParsedRequest",
    "Raw",
    "RecordedRequest",
    "Reply",
    "ScriptedToolCall",
    "Silence",
    "Status",
    "Step",
    "Turn",
    "Upstream",
    "WorkerFactory",
    "WorkerUnderTest",
    "host_under_test",
    "worker_under_test",
]

_MODULES = {
    "chat_conformance": ("ChatConformance", "ChatConformanceV1", "ChatConformanceV2"),
    "native_conformance": ("NativeConformance", "NativeConformanceV1"),
    "operations_conformance": ("ANYTHING", "Example", "OperationsConformance", "OperationsConformanceV1"),
    "processes": (
        "HostFactory",
        "HostUnderTest",
        "WorkerFactory",
        "WorkerUnderTest",
        "host_under_test",
        "worker_under_test",
    ),
    "upstream": ("Upstream",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

if "pytest" in sys.modules:
    # So that a failed assertion of a conformance class shows its values.
    sys.modules["pytest"].register_assert_rewrite(
        *(f"handler_host.testing.{module}" for module in ("conformance", "chat_conformance", "provider_conformance")),
        *(f"handler_host.testing.{module}" for module in ("native_conformance", "operations_conformance", "processes")),
    )


def __getattr__(name: str) -> Any:
    """Import the module that defines ``name``: the upstream alone needs neither pytest nor the host's server."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF.get(name, 'script')}"), name)
