"""Check that the modules exist which the fork server preloads, without importing them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator

from handler_host._internal.suggestions import nearest
from handler_host.config import Config
from handler_host.config.policy import HandlerPolicy


def missing_modules(config: Config) -> Iterator[tuple[str, str]]:
    """Yield setting and reason for each module to preload that is not installed.

    The default setting is not checked: its module is optional.
    """
    places = {"defaults.preload": config.defaults.preload}
    places |= {f"[handlers.{name}] preload": config.policy(name).preload for name in config.handlers}
    checked = set(HandlerPolicy().preload)
    for place, names in places.items():
        for name in names:
            if name not in checked and not _exists(name.partition(".")[0]):
                yield place, f"unknown module {name!r}{_suggest(name)}"
            checked.add(name)


def _exists(name: str) -> bool:
    """Return whether a top-level module exists; a submodule could be checked only by importing its package."""
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except ValueError:
        return False


def _suggest(name: str) -> str:
    import pkgutil  # not at the top: it costs each host 60 KB, for the rare misspelt name

    match = nearest(name, [module.name for module in pkgutil.iter_modules()])
    return f"; did you mean {match!r}?" if match is not None else ""
