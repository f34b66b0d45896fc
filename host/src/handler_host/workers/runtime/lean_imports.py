"""Make the imports of a handler's packages lazy, as far as its manifest allows."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from handler_host.channel import frames
from handler_host.lean import install, parse_requirement
from handler_host.lean.requirement import installed_versions

_log = logging.getLogger("handler_host.lean")


def install_lean_imports(lean: frames.LeanImports, send: Callable[[frames.Log], None]) -> None:
    """Install the hook, before the handler is imported; log in one line which packages stay eager, and why."""
    requirements = [parse_requirement(text) for text in lean.requirements]
    installed = installed_versions({requirement.distribution for requirement in requirements})
    packages: dict[str, None] = {}
    unchecked: dict[str, str] = {}
    for distribution, version, names in requirements:
        found = installed.get(distribution)
        if found == version or (found is not None and lean.any_version):
            packages |= dict.fromkeys(names)
        elif found is not None:
            unchecked |= dict.fromkeys(names, f"installed is {found}, checked {version}")
    result = install(
        packages,
        eager=lean.eager,
        cache=Path(lean.cache) if lean.cache is not None else None,
        on_failure=lambda name, module, error: _report_failure(send, name, module, error),
    )
    stay = {**{name: reason for name, reason in unchecked.items() if name not in packages}, **result.eager}
    if stay:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in stay.items())
        _log.info("some packages are imported eagerly (see docs/explanation/lean.md): %s", reasons)


def _report_failure(send: Callable[[frames.Log], None], name: str, module: str, error: BaseException) -> None:
    message = (
        f"the deferred import of {name!r} from {module!r} failed: {type(error).__name__}: {error}; "
        "the next activation of this version imports everything eagerly"
    )
    send(frames.Log(logging.WARNING, _log.name, message, None, is_lazy_import_failure=True))
