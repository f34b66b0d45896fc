"""Hosts with the handler ``sheets``, in this process, with real workers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.plugins.sheets.google import BOOK, Google
from tests.support import LIMIT, Bench, bench

QUICK = {"flush_after": 0, "retry_first": 0.02, "retry_longest": 0.1, "settle": 0.3, "timeout": 5, "cache_age": 0}
"""Impatient, where the defaults are for Google's real pace."""
PLENTY = {"reads_per_minute": 100_000, "writes_per_minute": 100_000}


class Client:
    """Asks the handler of one host."""

    def __init__(self, host: Bench) -> None:
        self.host = host

    async def __call__(self, operation: str, **request: Any) -> Any:
        return await self.host.ask("sheets", operation, **request)

    async def written(self) -> dict[str, Any]:
        """Wait until nothing is pending; return the status then."""
        async with asyncio.timeout(LIMIT):
            while (status := await self("status"))["pending"]:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        return dict(status)


@asynccontextmanager
async def local(root: Path, *, secrets: dict[str, str] | None = None, **settings: Any) -> AsyncIterator[Client]:
    """Run a host without credentials."""
    environ = {"PATH": "/usr/bin:/bin", **(secrets or {})}
    handlers = {"sheets": settings}
    async with bench(root, handlers=handlers, data_dir=root / "data", environ=environ, installed=True) as host:
        yield Client(host)


@asynccontextmanager
async def at_google(root: Path, google: Google, private_key: str, **settings: Any) -> AsyncIterator[Client]:
    """Run a host whose handler writes into the stand-in's spreadsheet."""
    secrets = {"GOOGLE_SERVICE_ACCOUNT_JSON": json.dumps(google.key(private_key))}
    wanted = {"spreadsheet": BOOK, "endpoint": google.url, **QUICK, **PLENTY, **settings}
    async with local(root, secrets=secrets, **wanted) as client:
        yield client


__all__ = ["PLENTY", "QUICK", "Client", "at_google", "local"]
