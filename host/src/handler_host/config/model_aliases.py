"""``[models]``: names that clients may request, and the handlers that they stand for. Pure.

.. code-block:: toml

    [models]
    fast = "gpt_e"                    # a name: the handler, with its own model
    smart = "gpt_b/claude-opus-4-8"   # a name: a handler and a model
    "claude-*" = "gpt_b"              # a pattern: the handler, with the requested name as its model
    "gpt-5*" = "gpt_a/{model}"        # the same, written out
    "o3*" = "gpt_a/{default}"         # a pattern: the handler, with its own model
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from handler_host._internal.suggestions import did_you_mean

REQUESTED = "{model}"
"""Placeholder for the requested name."""
DEFAULT = "{default}"
"""Model of a target that stands for the handler's own model."""
_WILDCARDS = "*?"
_PLACEHOLDER = r"\{([^{}]*)\}"


class ModelTarget(NamedTuple):
    """The handler and the model that a requested name stands for."""

    handler: str
    model: str | None
    """None: the handler chooses."""


class ModelAlias:
    """One line of ``[models]``; raises ``ValueError`` for an invalid name, pattern or target."""

    def __init__(self, name: str, target: str) -> None:
        self.name = name
        self.is_pattern = any(wildcard in name for wildcard in _WILDCARDS)
        self.handler, separator, model = target.partition("/")
        _check_name(name)
        _check_target(self.handler, separator, model)
        default = REQUESTED if self.is_pattern else DEFAULT
        self._model = model or default
        self._regex = re.compile(fnmatch.translate(name)) if self.is_pattern else None

    @property
    def precision(self) -> int:
        """Number of characters that are not wildcards."""
        return len(self.name) - sum(map(self.name.count, _WILDCARDS))

    def matches(self, name: str) -> bool:
        """Return whether a requested name is the alias, or fits its pattern."""
        return name == self.name if self._regex is None else self._regex.fullmatch(name) is not None

    def target(self, name: str) -> ModelTarget:
        """Return the handler and model for a requested name."""
        model = None if self._model == DEFAULT else self._model.replace(REQUESTED, name)
        return ModelTarget(self.handler, model)


def find_unknown_targets(aliases: dict[str, str], handlers: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield name and sentence for each alias whose handler is not one of the handlers."""
    handlers = list(handlers)
    for name, target in aliases.items():
        handler = target.partition("/")[0]
        if handler not in handlers:
            yield name, f"[models] {name!r}: unknown handler {handler!r}{did_you_mean(handler, handlers)}"


def _check_name(name: str) -> None:
    if not name or not name.isprintable() or name != name.strip():
        raise ValueError("the name must be a text of one line, not empty, without spaces around it")
    if "[" in name or "]" in name:
        raise ValueError("brackets are not supported in a pattern; write a line for each name, or use * and ?")


def _check_target(handler: str, separator: str, model: str) -> None:
    if not handler or (separator and not model) or re.search(_PLACEHOLDER, handler):
        raise ValueError('must be "HANDLER" or "HANDLER/MODEL"')
    for word in re.findall(_PLACEHOLDER, model):
        if f"{{{word}}}" not in (REQUESTED, DEFAULT):
            raise ValueError(f"unknown placeholder {{{word}}}; there are: {REQUESTED}, {DEFAULT}")
    if DEFAULT in model and model != DEFAULT:
        raise ValueError(f"{DEFAULT} must stand alone after the slash")
