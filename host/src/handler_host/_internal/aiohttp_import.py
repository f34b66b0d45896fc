"""Import aiohttp for a server: what only a client or a server of files needs waits for its first use.

The package ``aiohttp`` imports its client (2.6 MB), which reads the certificates that it trusts (1.8 MB); the host does
not need it. A server of files needs the system's table of media types (0.3 MB); the few files of the host have theirs
in the code.
"""

from __future__ import annotations

import importlib
import mimetypes
import re
import sys
import threading
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from importlib.abc import InspectLoader

_VERSION = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)
_completing = threading.RLock()


class _PackageWithoutClient(ModuleType):
    """The package ``aiohttp`` until one of the names is used that its ``__init__`` defines.

    The version and modules of the package are there without it. An inline handler may use a name in any thread.
    """

    def __getattr__(self, name: str) -> Any:
        """Return a module of the package, or else execute its ``__init__`` and return what that defines."""
        module = f"{self.__name__}.{name}"
        if find_spec(module) is not None:
            return importlib.import_module(module)
        with _completing:
            if type(self) is _PackageWithoutClient:
                importlib.reload(self)
                self.__class__ = ModuleType  # type: ignore[assignment]
        return getattr(self, name)


def import_aiohttp() -> None:
    """Import ``aiohttp.web``; do nothing if aiohttp is imported already, as in an application with a mounted host."""
    if "aiohttp" in sys.modules:
        return
    _add_package_without_client()
    media_type_files = list(mimetypes.knownfiles)
    mimetypes.knownfiles.clear()
    try:
        import aiohttp.web  # noqa: F401
    finally:
        mimetypes.knownfiles[:] = media_type_files


def _add_package_without_client() -> None:
    spec = find_spec("aiohttp")
    if spec is None:
        return
    version = _VERSION.search(cast("InspectLoader", spec.loader).get_source("aiohttp") or "")
    if version is None:
        return
    package = module_from_spec(spec)
    package.__dict__["__version__"] = version[1]  # the only name that the modules of the server import from the package
    package.__class__ = _PackageWithoutClient
    sys.modules["aiohttp"] = package
