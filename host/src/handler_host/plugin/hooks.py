"""Hooks of a handler (pluggy): methods that the worker runs when it starts and stops."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from handler_host.plugin.context import Context

PROJECT = "handler_host"
"""Name of this project in pluggy."""
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Mark a method of a handler as one of the hooks of :class:`HandlerHooks`."""


class HandlerHooks:
    """Hooks of a handler. Each is optional, may be a coroutine function, and receives the arguments that it names."""

    @hookspec
    def activate(self, context: Context) -> None:
        """Run once in a new worker, before the first dispatch: import the SDK, open the client."""

    @hookspec
    def deactivate(self, context: Context) -> None:
        """Run when the handler is unloaded, after the last dispatch: flush and close."""

    @hookspec
    def health(self, context: Context) -> None:
        """Raise if the handler cannot do its work."""
