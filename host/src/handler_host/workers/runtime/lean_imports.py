"""Make the imports of a handler's packages lazy, as far as its manifest allows."""

from __future__ import annotations

import logging
from collections.abc import Callable

from handler_host.channel import frames
from handler_host.lean import install
from handler_host.lean.cache import directories_of
from handler_host.lean.requirement import select_packages

_log = logging.getLogger("handler_host.lean")


def install_lean_imports(lean: frames.LeanImports, send: Callable[[frames.Log], None]) -> tuple[str, ...]:
    """Install the hook before the handler is imported; return the packages that are not compiled.

    Logs in one line that packages stay eager: how many, and the reason of the first.
    """
    selection = select_packages(lean.requirements, any_version=lean.any_version)
    result = install(
        selection.packages,
        eager=lean.eager,
        cache=directories_of(lean.cache, lean.fallback_cache),
        on_failure=lambda name, module, error: _report_failure(send, name, module, error),
    )
    stay = {**selection.unchecked, **result.eager}
    if stay:
        (name, reason), more = next(iter(stay.items())), len(stay) - 1
        _log.info(
            "some packages are imported in full, which takes more time and memory: %s (%s)%s; "
            "see `handler-host doctor`",
            name,
            reason.partition(";")[0],
            f" and {more} more" if more else "",
        )
    return tuple(result.eager)


def _report_failure(send: Callable[[frames.Log], None], name: str, module: str, error: BaseException) -> None:
    message = (
        f"the deferred import of {name!r} from {module!r} failed: {type(error).__name__}: {error}; "
        "the next activation of this version imports everything eagerly"
    )
    send(frames.Log(logging.WARNING, _log.name, message, None, is_lazy_import_failure=True))
