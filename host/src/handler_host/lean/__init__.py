"""Lazy imports for packages that were written without them: what PEP 810 brings to Python 3.15, on 3.11 to 3.14.

Compile the packages once (``python -m handler_host.lean compile PACKAGE``), then call
:func:`install` before they are imported. The package imports nothing of the host and
no third-party package.
"""

from __future__ import annotations

from handler_host.lean.importer import Installation, install
from handler_host.lean.requirement import Requirement, parse_requirement

__all__ = ["Installation", "Requirement", "install", "parse_requirement"]
