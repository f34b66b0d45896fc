"""``handler-host version``."""

from __future__ import annotations

import platform
from types import SimpleNamespace

from host.cli.failure import OK
from host.cli.render import put
from host.version import __version__


def version(arguments: SimpleNamespace) -> int:
    """Print the version."""
    put(f"handler-host {__version__} (Python {platform.python_version()})")
    return OK
