"""The outlets of telemetry: log, events, counters, failures, memory history, observer of an application."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from handler_host.telemetry.counters import Counters
from handler_host.telemetry.events import EventHub
from handler_host.telemetry.failures import FailureRing
from handler_host.telemetry.history import History
from handler_host.telemetry.log_tail import LogTail
from handler_host.telemetry.usage import TokenUsage

log = logging.getLogger(__name__)

Observer = Callable[[str, Mapping[str, object]], None]
"""Callback for each step: its kind and its fields."""


class TelemetryHub:
    """Sends each lifecycle step to log, counters, events and observer."""

    def __init__(self, observer: Observer | None = None) -> None:
        self.events = EventHub()
        self.counters = Counters()
        self.usage = TokenUsage()
        self.history = History()
        self.failures = FailureRing()
        self.log_tail = LogTail()
        self._observer = observer

    def emit(self, kind: str, fields: Mapping[str, object]) -> None:
        """Send a step to every outlet; ``kind`` is one of ``handler_host.telemetry.events.KINDS``."""
        log.info(kind, extra={"fields": fields})
        self.counters.count_step(kind, fields)
        self.events.publish(kind, fields)
        if self._observer is not None:
            try:
                self._observer(kind, fields)
            except Exception:
                log.exception("the application's observer failed at %r", kind)
