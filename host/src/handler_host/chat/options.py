"""Options of a chat request that have parts of their own: the format of the response, and the reasoning."""

from __future__ import annotations

import math
from typing import Any

from handler_host.chat.parts import Model as _Model


class JsonSchema(_Model, forbid_unknown_fields=True):
    """A JSON Schema that the response must fit."""

    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None

    @property
    def described_schema(self) -> dict[str, Any]:
        """The schema with the description inside, for providers that take a schema alone."""
        return self.schema if self.description is None else {"description": self.description, **self.schema}


class TextFormat(_Model, tag_field="type", tag="text", forbid_unknown_fields=True):
    """Text, the default format of a response."""


class JsonObjectFormat(_Model, tag_field="type", tag="json_object", forbid_unknown_fields=True):
    """A response that is a JSON object."""


class JsonSchemaFormat(_Model, tag_field="type", tag="json_schema", forbid_unknown_fields=True):
    """A response that is a JSON document and fits a schema."""

    json_schema: JsonSchema


_BUDGETS = {"low": 2048, "medium": 16384, "high": math.inf}
"""Largest budget of each effort, in tokens."""


class ReasoningOptions(_Model, forbid_unknown_fields=True):
    """How much the model reasons, and whether the response shows it.

    ``effort`` is ``none``, ``minimal``, ``low``, ``medium``, ``high``, ``xhigh`` or a provider's own word;
    ``budget_tokens`` is the limit in tokens, -1 if the model decides, 0 for no reasoning. ``summary`` is ``auto``,
    ``concise`` or ``detailed``, or None if the client does not want the reasoning.
    """

    effort: str | None = None
    budget_tokens: int | None = None
    summary: str | None = None

    @property
    def is_off(self) -> bool:
        """Whether the client wants no reasoning."""
        return self.effort == "none" or self.budget_tokens == 0

    @property
    def is_unmeasured(self) -> bool:
        """Whether the client wants reasoning, or to see it, and leaves its extent to the model."""
        return self.effort is None and self.budget_tokens in (None, -1) and self != ReasoningOptions()

    @property
    def effort_or_budget(self) -> str | None:
        """The effort, or the one that comes closest to the budget; None if the model decides, or for no budget.

        A budget of 0 is not the effort ``none``, which models that always reason refuse.
        """
        budget = self.budget_tokens
        if self.effort is not None or budget is None or budget <= 0:
            return self.effort
        return next(effort for effort, limit in _BUDGETS.items() if budget <= limit)
