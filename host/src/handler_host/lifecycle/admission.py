"""Gives a lease to a block of code, and takes it back at its end."""

from __future__ import annotations

from types import TracebackType

from handler_host.lifecycle.controller import HandlerController
from handler_host.lifecycle.lease import Lease


class LeaseContext:
    """Gives a lease to the block it is entered for, and takes it back at its end."""

    __slots__ = ("_controller", "_dispatch", "_patience", "operation")

    def __init__(
        self, controller: HandlerController, dispatch: int, patience: float | None, operation: str | None
    ) -> None:
        self.operation = operation
        """The operation that is asked for, if the handler is known to have it."""
        self._controller = controller
        self._dispatch = dispatch
        self._patience = patience

    async def __aenter__(self) -> Lease:
        return await self._controller.admit(self._dispatch, self._patience)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Take the lease back; for who has entered this without a block."""
        self._controller.release(self._dispatch)
