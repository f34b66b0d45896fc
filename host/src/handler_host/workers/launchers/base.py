"""Protocol of the launchers on this machine; an engine for others implements ``workers/remote/engine.py``.

A launcher gives a worker a socket to the host and a pipe for its output. The handler that it loads is
named over the socket, by the first frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from handler_host.workers.worker_process import WorkerProcess


class Launcher(Protocol):
    """Factory for workers of one kind."""

    async def launch(self, handler: str, generation: int, environment: Mapping[str, str]) -> WorkerProcess:
        """Launch a worker that waits for its Start frame; raises ``OutOfResources``."""

    async def close(self) -> None:
        """Stop the processes that the launcher has started for itself."""
