"""Learned memory of all hosts: a host without a state file starts with the memory that other hosts have learned."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import msgspec

from handler_host._internal.atomic_write import replace_file
from handler_host._internal.small_file import read_small_file
from handler_host.memory.footprints import FORMAT, MAX_BYTES, Footprint, FootprintFile
from handler_host.shared.store import SharedStore, StoreUnavailable

log = logging.getLogger(__name__)

PUBLISH_INTERVAL_S = 60.0
"""Time between two checks of the state file for changes."""


class SharedFootprints:
    """Copies learned memory between the state file and the shared server; hints only, so a failure is ignored."""

    def __init__(self, store: SharedStore, state_file: Path) -> None:
        self._store = store
        self._state_file = state_file
        self._published = b""
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Write the state file if it is missing; add what is in it to the shared server from now on."""
        if not await asyncio.to_thread(self._state_file.exists):
            await self._seed()
        self._task = asyncio.create_task(self._publish_changes(), name="learned memory to the shared server")

    async def close(self) -> None:
        """Add what was learned last."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._publish()

    async def _seed(self) -> None:
        try:
            footprints = [msgspec.json.decode(data, type=Footprint) for data in await self._store.footprints()]
            if footprints:
                content = msgspec.json.encode(FootprintFile(FORMAT, footprints))
                await asyncio.to_thread(replace_file, self._state_file, content)
                log.info("learned memory of other hosts", extra={"fields": {"versions": len(footprints)}})
        except (StoreUnavailable, msgspec.MsgspecError, OSError) as error:
            log.debug("no learned memory of other hosts: %s", error)

    async def _publish_changes(self) -> None:
        while True:
            await self._publish()
            await asyncio.sleep(PUBLISH_INTERVAL_S)

    async def _publish(self) -> None:
        try:
            content = await asyncio.to_thread(read_small_file, self._state_file, MAX_BYTES)
            if content == self._published:
                return
            footprints = msgspec.json.decode(content, type=FootprintFile).footprints
            if footprints:
                await self._store.add_footprints({_version(entry): msgspec.json.encode(entry) for entry in footprints})
            self._published = content
        except (StoreUnavailable, msgspec.MsgspecError, OSError) as error:
            log.debug("learned memory is not shared now: %s", error)


def _version(footprint: Footprint) -> str:
    return "\n".join((footprint.handler, footprint.distribution, footprint.version))
