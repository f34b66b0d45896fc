"""The admin route of token usage and token budgets."""

from __future__ import annotations

import contextlib
import datetime
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from handler_host.auth.consumers import Consumer, Consumers
from handler_host.http.responses import json_response
from handler_host.telemetry.usage import TokenUsage, UsageRow

if TYPE_CHECKING:
    from handler_host.shared.store import SharedStore


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

    since: datetime.datetime | None
    """Time of the first response on record; None for all hosts."""
    all_hosts: bool
    """Whether this is the usage of all hosts that share a server."""
    usage: list[UsageRow]
    budgets: list[BudgetReport]


class UsageRoutes:
    """``GET /admin/usage``."""

    def __init__(self, usage: TokenUsage, consumers: Consumers, store: SharedStore | None) -> None:
        self._usage = usage
        self._consumers = consumers
        self._store = store

    def routes(self) -> list[web.RouteDef]:
        """Return the route; the composition root adds authentication."""
        return [web.get("/admin/usage", self.show)]

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Return the usage of all hosts if they share a server that responds, else that of this host."""
        limited = self._consumers.with_token_limits()
        if self._store is not None:
            from handler_host.shared.store import StoreUnavailable

            with contextlib.suppress(StoreUnavailable):
                rows = await self._store.usage()
                budgets = [_budget(consumer, *await self._store.budget(consumer.name)) for consumer in limited]
                return json_response(UsageReport(None, True, rows, budgets))
        budgets = [_budget(consumer, consumer.minute_tokens, consumer.day_tokens) for consumer in limited]
        since = datetime.datetime.fromtimestamp(self._usage.since, datetime.UTC)
        return json_response(UsageReport(since, False, self._usage.rows(), budgets))


def _budget(consumer: Consumer, minute_tokens: int, day_tokens: int) -> BudgetReport:
    entry = consumer.entry
    return BudgetReport(consumer.name, minute_tokens, entry.tokens_per_minute, day_tokens, entry.tokens_per_day)
