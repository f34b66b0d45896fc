"""What the SDKs log of each of their requests is not in the log, unless the handler's level is debug."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from handler_host._internal import log as logs
from handler_host.config import LogConfig
from handler_host.testing import Reply, Upstream
from tests.support import supervisor_harness, within

HANDLERS = [
    ("gpt_a", "openai", "OPENAI_API_KEY", {}),
    ("gpt_b", "anthropic", "ANTHROPIC_API_KEY", {}),
    ("gpt_c", "gemini", "GEMINI_API_KEY", {}),
    ("gpt_c", "gemini", "GEMINI_API_KEY", {"sdk": "google-genai"}),
    ("gpt_d", "openai", "OPENAI_API_KEY", {"model": "openai/small"}),
]


async def logged_by_sdks(
    directory: Path, name: str, protocol: Any, secret: str, settings: dict[str, Any], log: LogConfig
) -> list[str]:
    records: list[logging.LogRecord] = []
    keeping = logging.Handler()
    keeping.emit = records.append  # type: ignore[method-assign]
    upstream = Upstream()
    async with upstream.serving():
        upstream.say(Reply(("Bon", "jour")))
        url = upstream.base_url(protocol)
        handlers = {name: {**settings, **({"api_base": {"openai": url}} if name == "gpt_d" else {"base_url": url})}}
        logs.setup(log)
        logging.getLogger().addHandler(keeping)
        try:
            async with supervisor_harness(
                directory, handlers=handlers, installed=True, environ={secret: "a-key"}, log=log
            ) as host:
                messages = [{"role": "user", "content": "Hello"}]
                assert (await within(host.ask(name, "chat", messages=messages)))["text"] == "Bonjour"
                assert [chunk async for chunk in host.chunks(name, "chat", messages=messages)]
        finally:
            logging.getLogger().removeHandler(keeping)
            logs.setup(LogConfig())
    fields = [(record, getattr(record, "fields", {})) for record in records]
    return [
        f"{record.levelname} {field['logger']}: {record.getMessage()}"
        for record, field in fields
        if field.get("logger", name) != name
    ]


@pytest.mark.parametrize(("name", "protocol", "secret", "settings"), HANDLERS)
async def test_requests_to_the_provider_leave_no_line_in_the_log(
    tmp_path: Path, name: str, protocol: str, secret: str, settings: dict[str, Any]
) -> None:
    assert await logged_by_sdks(tmp_path, name, protocol, secret, settings, LogConfig()) == []


async def test_the_level_debug_of_a_handler_shows_what_its_sdk_does(tmp_path: Path) -> None:
    said = await logged_by_sdks(tmp_path, *HANDLERS[0], LogConfig(levels={"gpt_a": "debug"}))
    assert any("HTTP Request: POST" in line for line in said)
