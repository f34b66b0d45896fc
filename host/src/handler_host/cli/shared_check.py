"""The finding of ``handler-host doctor`` about the server that several hosts share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from handler_host.cli.findings import Finding, Level
from handler_host.cli.progress import show_progress
from handler_host.config import Config
from handler_host.config.shared import SharedConfig
from handler_host.plugin.errors import ConfigError

PLACE = "[shared]"


def check_shared(config: Config) -> Iterator[Finding]:
    """Connect to the shared server, if one is configured, and yield its version or what is wrong."""
    if config.shared.url is None:
        return
    try:
        with show_progress("connecting to the shared server"):
            yield asyncio.run(_examine(config.shared))
    except ConfigError as error:
        yield Finding(Level.PROBLEM, PLACE, error.message)


async def _examine(config: SharedConfig) -> Finding:
    from handler_host.shared import store as stores  # imports redis-py

    store = stores.SharedStore(config, lambda result: None)
    stores.log.disabled = True  # the finding has the reason
    try:
        version = await store.examine()
    except stores.StoreUnavailable as error:
        return Finding(Level.PROBLEM, PLACE, f"{store.address}: {error}")
    finally:
        await store.close()
        stores.log.disabled = False
    return Finding(Level.OK, PLACE, f"{store.address}: {version}")
