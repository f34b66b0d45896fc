"""The admin route of token usage and token budgets."""

from __future__ import annotations

import datetime

import msgspec
from aiohttp import web

from handler_host.auth.consumers import Consumers
from handler_host.http.responses import json_response
from handler_host.telemetry.usage import TokenUsage, UsageRow


class BudgetReport(msgspec.Struct, frozen=True):
    """Token limits of one consumer, and the tokens that count against them now."""

    consumer: str
    minute_tokens: int
    tokens_per_minute: int | None
    """None: no limit."""
    day_tokens: int
    """Since midnight in UTC."""
    tokens_per_day: int | None


class UsageReport(msgspec.Struct, frozen=True):
    """Tokens by consumer, handler and model, and the budgets."""

    since: datetime.datetime
    usage: list[UsageRow]
    budgets: list[BudgetReport]


class UsageRoutes:
    """``GET /admin/usage``."""

    def __init__(self, usage: TokenUsage, consumers: Consumers) -> None:
        self._usage = usage
        self._consumers = consumers

    def routes(self) -> list[web.RouteDef]:
        """Return the route; the composition root adds authentication."""
        return [web.get("/admin/usage", self.show)]

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Return the usage since the first response that is on record."""
        budgets = [
            BudgetReport(
                consumer.name,
                consumer.minute_tokens,
                consumer.entry.tokens_per_minute,
                consumer.day_tokens,
                consumer.entry.tokens_per_day,
            )
            for consumer in self._consumers.with_token_limits()
        ]
        since = datetime.datetime.fromtimestamp(self._usage.since, datetime.UTC)
        return json_response(UsageReport(since, self._usage.rows(), budgets))
