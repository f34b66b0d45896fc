"""handler-host: many heavy handlers on a small machine, each loaded when it is needed and unloaded for good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from handler_host._internal.versions import __version__

if TYPE_CHECKING:
    from handler_host.app import create_app

__all__ = ["__version__", "create_app"]


def __getattr__(name: str) -> Any:
    """Import the application only for who asks for it: workers import this package too."""
    if name == "create_app":
        from handler_host.app import create_app

        return create_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
