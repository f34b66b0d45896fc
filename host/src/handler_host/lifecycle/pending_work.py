"""Activates handlers again that have work pending (``handler_host.plugin.pending``), and tells how much waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from handler_host.lifecycle import events
from handler_host.lifecycle.controller import HandlerController
from handler_host.plugin import pending


class PendingWorkScheduler:
    """Looks at the notes under ``root``, the data directory, if there is one.

    ``resting`` tells whether the host takes no new work.
    """

    def __init__(
        self, root: Path | None, controllers: Mapping[str, HandlerController], resting: Callable[[], bool]
    ) -> None:
        self._root = root
        self._controllers = controllers
        self._resting = resting

    async def run(self) -> None:
        """Wake whom it is due for, until cancelled."""
        if self._root is not None:
            await pending.watch(self._root, self.wake)

    def wake(self, name: str) -> None:
        """Activate a handler, as far as there is room for it without an eviction."""
        controller = self._controllers.get(name)
        if controller is not None and controller.entry.problem is None and not self._resting():
            controller.post(events.PendingWorkDue())

    async def counts(self) -> dict[str, int]:
        """Return how many things each handler still has to deliver, active or not; those without any are left out."""
        if self._root is None:
            return {}
        notes = await asyncio.to_thread(pending.read, self._root)
        return {name: notes[name].count for name in sorted(notes) if name in self._controllers}
