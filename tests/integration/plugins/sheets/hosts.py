"""Hosts with the handler ``sheets`` and real workers, in this process or in one of their own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.integration.plugins.sheets.google import BOOK, Google
from tests.support import LIMIT, SupervisorHarness, gone, supervisor_harness, within

QUICK = {"flush_after": 0, "retry_first": 0.02, "retry_longest": 0.1, "settle": 0.3, "timeout": 5, "cache_age": 0}
"""Impatient, where the defaults are for Google's real pace."""
PLENTY = {"reads_per_minute": 100_000, "writes_per_minute": 100_000}


class Client:
    """Asks the handler of one host."""

    def __init__(self, host: SupervisorHarness) -> None:
        self.host = host

    async def __call__(self, operation: str, **request: Any) -> Any:
        return await self.host.ask("sheets", operation, **request)

    async def written(self) -> dict[str, Any]:
        """Wait until nothing is pending and the last try went well; return the status then."""
        status: dict[str, Any] = {"pending": 1}
        async with asyncio.timeout(LIMIT):
            while status["pending"] or status["failures"]:
                status = await self("status")
                await asyncio.sleep(0.01)
        return status


@asynccontextmanager
async def local(root: Path, *, secrets: dict[str, str] | None = None, **settings: Any) -> AsyncIterator[Client]:
    """Run a host without credentials."""
    environ = {"PATH": "/usr/bin:/bin", **(secrets or {})}
    handlers = {"sheets": settings}
    async with supervisor_harness(
        root, handlers=handlers, data_dir=root / "data", environ=environ, installed=True
    ) as host:
        yield Client(host)


@asynccontextmanager
async def at_google(root: Path, google: Google, private_key: str, **settings: Any) -> AsyncIterator[Client]:
    """Run a host whose handler writes into the stand-in's spreadsheet."""
    secrets = {"GOOGLE_SERVICE_ACCOUNT_JSON": json.dumps(google.key(private_key))}
    # The host's own grace: the first write imports gspread, which takes more than 2 s on a busy machine.
    wanted = {"spreadsheet": BOOK, "endpoint": google.url, "stop_grace": 5.0, **QUICK, **PLENTY, **settings}
    async with local(root, secrets=secrets, **wanted) as client:
        yield client


class ServedHost:
    """A host in a process of its own, that can be killed and started again on the same data."""

    def __init__(self, root: Path, google: Google, private_key: str | None) -> None:
        settings = {"spreadsheet": BOOK, "endpoint": google.url, **QUICK, **PLENTY, "batch_rows": 60}
        lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        self._config = root / "host.toml"
        self._config.write_text("\n".join([f'data_dir = "{root}/data"', "[handlers.sheets]", *lines]))
        self._environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(root),
        }
        if private_key is not None:
            self._environ["GOOGLE_SERVICE_ACCOUNT_JSON"] = json.dumps(google.key(private_key))
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    async def start(self) -> None:
        command = [sys.executable, "-m", "handler_host", "serve", "--port", "0", "--config", str(self._config)]
        process = self._process = subprocess.Popen(
            command, env=self._environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert process.stdout is not None
        line = await within(asyncio.to_thread(process.stdout.readline))
        self.url = line.split()[1]

    async def kill(self) -> None:
        """End it by SIGKILL; returns when it is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await within(asyncio.to_thread(process.wait))
            assert process.stdout is not None
            process.stdout.close()
            assert gone(process.pid)


@asynccontextmanager
async def served(root: Path, google: Google, private_key: str | None = None) -> AsyncIterator[ServedHost]:
    """Run one; without a key its workbook is local."""
    host = ServedHost(root, google, private_key)
    await host.start()
    try:
        yield host
    finally:
        await host.kill()


__all__ = ["PLENTY", "QUICK", "Client", "ServedHost", "at_google", "local", "served"]
