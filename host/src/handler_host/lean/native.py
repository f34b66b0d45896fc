"""The interpreter's own lazy imports (PEP 810, Python 3.15), used instead of rewriting where they are there.

Tested with a stand-in for ``sys`` only: no released interpreter has them yet.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from typing import Any


def is_supported(system: Any = sys) -> bool:
    """Return whether the interpreter can make the imports of other people's modules lazy."""
    return hasattr(system, "set_lazy_imports") and hasattr(system, "set_lazy_imports_filter")


def enable(packages: Collection[str], eager: Collection[str], system: Any = sys) -> None:
    """Make the imports in ``packages`` lazy, but those of the ``eager`` modules."""

    def is_lazy(importing: str, imported: str, names: Sequence[str] | None) -> bool:
        if not any(importing == name or importing.startswith(f"{name}.") for name in packages):
            return False
        targets = [imported, *(f"{imported}.{name}" for name in names or ())]
        return not any(target in eager for target in targets)

    system.set_lazy_imports_filter(is_lazy)
    system.set_lazy_imports("all")
