"""Services of an application with ``shared.url``. Imported only then."""

from __future__ import annotations

from handler_host.auth.shared_limits import SharedLimits
from handler_host.config import Config, kept_state_file
from handler_host.shared.footprints import SharedFootprints
from handler_host.shared.store import SharedStore
from handler_host.telemetry.hub import TelemetryHub


class SharedServices:
    """The shared server, and the limits, usage and learned memory in it. Raises :class:`ConfigError`."""

    def __init__(self, config: Config, telemetry: TelemetryHub) -> None:
        self.store = SharedStore(config.shared, telemetry.counters.count_shared_call)
        self.limits = SharedLimits(self.store, is_open=config.shared.on_failure == "open")
        self._usage = telemetry.usage
        state_file = kept_state_file(config.memory)
        self._footprints = None
        if state_file is not None:
            self._footprints = SharedFootprints(self.store, state_file)

    async def start(self) -> None:
        """Connect; a server that does not respond is logged, and the host serves all the same."""
        await self.store.start()
        self._usage.listeners.append(self.store.add_usage)
        if self._footprints is not None:
            await self._footprints.start()

    async def close(self) -> None:
        """Write what the server does not have yet, and disconnect."""
        if self.store.add_usage in self._usage.listeners:
            self._usage.listeners.remove(self.store.add_usage)
        if self._footprints is not None:
            await self._footprints.close()
        await self.limits.close()
        await self.store.close()
