"""Flaws of a configuration that need the names of all handlers: fallbacks and models."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from handler_host.catalog.manifest import place_of
from handler_host.config import Config
from handler_host.config.model_aliases import find_unknown_targets
from handler_host.dispatch.fallback import unknown_fallbacks


def find_config_flaws(config: Config, handlers: Collection[str]) -> Iterator[str]:
    """Yield a sentence for each flaw, given the names of all handlers."""
    for table, flaw in unknown_fallbacks(config, handlers):
        yield f"{place_of(config.source, (*table, 'fallback'))}{flaw}"
    for name, flaw in find_unknown_targets(config.models, handlers):
        yield f"{place_of(config.source, ('models', name))}{flaw}"
