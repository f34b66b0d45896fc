"""Names of models: the handler and model that a client's ``model`` stands for. One resolver for all protocols.

In this order: an exact name of ``[models]``; the name of a handler, alone or before the first slash
(``gpt_a/gpt-5``); the pattern of ``[models]`` with the most characters that are not wildcards, of two alike the first
one. So a pattern never hides a handler, and ``"*"`` is the target of all other names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from handler_host.config import Config
from handler_host.config.model_aliases import ModelAlias, ModelTarget


class AliasTable:
    """The aliases of ``[models]`` in the order in which they are tried."""

    def __init__(self, models: Mapping[str, str]) -> None:
        self.models = models
        aliases = [ModelAlias(name, target) for name, target in models.items()]
        self.names = {alias.name: alias for alias in aliases if not alias.is_pattern}
        self.patterns = sorted(
            (alias for alias in aliases if alias.is_pattern), key=lambda alias: alias.precision, reverse=True
        )

    def resolve(self, name: str, is_handler: Callable[[str], bool]) -> ModelTarget:
        """Return the handler and model of a requested name; the handler may be unknown."""
        alias = self.names.get(name)
        if alias is not None:
            return alias.target(name)
        target = split_model(name)
        if not is_handler(target.handler):
            for alias in self.patterns:
                if alias.matches(name):
                    return alias.target(name)
        return target


class ModelNames:
    """Resolver of models in the current configuration."""

    def __init__(self, config: Callable[[], Config], is_handler: Callable[[str], bool]) -> None:
        self._config = config
        self._is_handler = is_handler
        self._table = AliasTable({})

    def resolve(self, name: str) -> ModelTarget:
        """Return the handler and model of a requested name; the handler may be unknown."""
        return self._current().resolve(name, self._is_handler)

    def aliases(self) -> dict[str, ModelTarget]:
        """Return the target of each exact name of ``[models]``; patterns cannot be listed."""
        return {name: alias.target(name) for name, alias in self._current().names.items()}

    def _current(self) -> AliasTable:
        models = self._config().models
        if self._table.models is not models:
            self._table = AliasTable(models)
        return self._table


def split_model(name: str) -> ModelTarget:
    """Return the handler before the first slash, and the model after it."""
    handler, _, model = name.partition("/")
    return ModelTarget(handler, model or None)
