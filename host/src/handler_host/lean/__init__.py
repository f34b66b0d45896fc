"""Lazy imports for packages that were written without them: what PEP 810 brings to Python 3.15, on 3.11 to 3.14.

Compile the packages once (``python -m handler_host.lean compile PACKAGE``), then call
:func:`install` before they are imported. The package imports nothing of the host and
no third-party package. Its names are imported on first use: the host reads requirements
without loading the hook.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handler_host.lean.import_hook import Installation, install
    from handler_host.lean.requirement import Requirement, parse_requirement

CACHE_VARIABLE = "LEAN_CACHE"
"""Environment variable that names the directory of the cache."""

__all__ = ["CACHE_VARIABLE", "Installation", "Requirement", "install", "parse_requirement"]

_MODULE_OF = {
    "Installation": "import_hook",
    "Requirement": "requirement",
    "install": "import_hook",
    "parse_requirement": "requirement",
}


def __getattr__(name: str) -> Any:
    """Import the module that defines ``name``."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
