"""All that is told of what happens: log, events, counters, memory over time, and an embedding application."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from handler_host.telemetry.counters import Counters
from handler_host.telemetry.events import EventHub
from handler_host.telemetry.history import History

log = logging.getLogger(__name__)

Observer = Callable[[str, Mapping[str, object]], None]
"""Is told of each step: its name, and its figures."""


class TelemetryHub:
    """Tells each step to all who want to know."""

    def __init__(self, observer: Observer | None = None) -> None:
        self.events = EventHub()
        self.counters = Counters()
        self.history = History()
        self._observer = observer

    def step(self, what: str, fields: Mapping[str, object]) -> None:
        """Tell a step; ``what`` is one of ``handler_host.telemetry.events.KINDS``."""
        log.info(what, extra={"fields": fields})
        self.counters.step(what, fields)
        self.events.publish(what, fields)
        if self._observer is not None:
            try:
                self._observer(what, fields)
            except Exception:
                log.exception("the observer of the application failed at %r", what)
