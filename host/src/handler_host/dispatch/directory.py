"""Directory: the handlers as a consumer sees them. A handler that its key may not use does not exist for it."""

from __future__ import annotations

import typing

import msgspec

from handler_host.catalog.catalog_entry import ProblemState
from handler_host.dispatch.request import Consumer
from handler_host.lifecycle.reports import HandlerStatus
from handler_host.lifecycle.supervisor import Supervisor
from handler_host.plugin.errors import UnknownHandler

CANNOT_RUN = frozenset(typing.get_args(ProblemState))
"""States of a handler that has a problem in its catalog entry."""
SHOWN_REASONS = frozenset({"waiting", "draining"})
"""States whose reasons consumers see; those of others may have values of the configuration."""


def _for_consumer(status: HandlerStatus) -> HandlerStatus:
    """Return a status without what only operators need: process, memory, and why the handler cannot run."""
    is_shown = status.reason is None or status.state in SHOWN_REASONS
    reason = status.reason if is_shown else "the operator of this host sees why"
    return msgspec.structs.replace(
        status, reason=reason, pid=None, confinement=None, pss=None, learned_pss=None, python=None, last_exit=None
    )


class HandlerDirectory:
    """Handlers that a consumer may use; all of them without a consumer."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def statuses(self, consumer: Consumer | None) -> list[HandlerStatus]:
        """Return the status of each handler, by name."""
        statuses = self._supervisor.statuses()
        if consumer is None:
            return statuses
        return [_for_consumer(status) for status in statuses if consumer.allows(status.name)]

    def status(self, name: str, consumer: Consumer | None) -> HandlerStatus:
        """Return the status of one handler; raises ``UnknownHandler``."""
        if consumer is None or consumer.allows(name):
            try:
                status = self._supervisor.status(name)
                return status if consumer is None else _for_consumer(status)
            except UnknownHandler:
                raise self.unknown_handler(name, consumer) from None
        raise self.unknown_handler(name, consumer)

    def unknown_handler(self, name: str, consumer: Consumer | None) -> UnknownHandler:
        """Return the error for a handler that is not installed, or that the consumer may not use."""
        names = ", ".join(status.name for status in self.statuses(consumer)) or "none"
        return UnknownHandler(f"unknown handler {name!r}; there are: {names}", param="handler")
