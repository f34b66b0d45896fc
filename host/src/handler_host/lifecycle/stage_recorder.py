"""Records the stages of the host and of its handlers, each with the memory of all processes."""

from __future__ import annotations

from handler_host._internal.background_tasks import BackgroundTasks
from handler_host.memory.monitor import MemoryMonitor
from handler_host.telemetry.hub import TelemetryHub


class StageRecorder:
    """Emits stages to log, events and counters."""

    def __init__(self, monitor: MemoryMonitor, telemetry: TelemetryHub, tasks: BackgroundTasks) -> None:
        self._monitor = monitor
        self._telemetry = telemetry
        self._tasks = tasks

    async def record(self, stage: str, **fields: object) -> None:
        """Measure the memory, and emit a stage (a key of ``handler_host.telemetry.events.KINDS``)."""
        reading = await self._monitor.measure()
        limit = reading.limit
        fields |= {
            "pss": reading.total,
            "host": reading.host,
            "fork_server": reading.fork_server,
            "workers": reading.by_handler(),
            "limit": limit.bytes,
            "limit_source": limit.source,
        }
        self._telemetry.emit(stage, fields)
        await self._monitor.save()

    def record_soon(self, stage: str, **fields: object) -> None:
        """Emit a stage as soon as the memory is measured, without waiting for it."""
        self._tasks.spawn(self.record(stage, **fields), f"record of {stage}")
