"""Hooks of a handler (pluggy): functions that the worker runs when it starts and stops."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from handler_host.plugin.context import Context


PROJECT = "handler_host"
"""The name under which pluggy knows this project's hooks."""
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a method of a handler as one of the hooks of :class:`HandlerHooks`."""


class HandlerHooks:
    """The hooks of a handler. Each is optional, may be a coroutine function, and takes only the arguments it names."""

    @hookspec
    def activate(self, context: Context) -> None:
        """Run once in a new worker, before the first dispatch: import the SDK, open the client."""

    @hookspec
    def deactivate(self, context: Context) -> None:
        """Run when the handler is unloaded, after the last dispatch: flush and close."""

    @hookspec
    def health(self, context: Context) -> None:
        """Raise if the handler cannot do its work."""
