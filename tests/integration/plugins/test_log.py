"""The lines that SDKs log for each request: hidden, unless the handler's level is debug."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from handler_host._internal import log as logs
from handler_host.config import LogConfig
from handler_host.testing import Reply, Upstream
from tests.support import supervisor_harness, within

BONJOUR = {"type": "text", "text": "Bonjour"}


class Case(NamedTuple):
    """A handler, its provider's protocol, its secret, its settings."""

    name: str
    protocol: Any
    secret: str
    settings: dict[str, Any]


CASES = [
    Case("gpt_a", "openai", "OPENAI_API_KEY", {}),
    Case("gpt_b", "anthropic", "ANTHROPIC_API_KEY", {}),
    Case("gpt_c", "gemini", "GEMINI_API_KEY", {}),
    Case("gpt_c", "gemini", "GEMINI_API_KEY", {"sdk": "google-genai"}),
    Case("gpt_d", "openai", "OPENAI_API_KEY", {"model": "openai/small"}),
]


class Records(logging.Handler):
    """Handler that keeps all records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


async def logged_by_sdks(directory: Path, case: Case, log: LogConfig) -> list[str]:
    """Run one plain and one streamed chat; return the lines of the SDKs."""
    name, protocol, secret, settings = case
    handler, upstream = Records(), Upstream()
    async with upstream.serve():
        upstream.respond_with(Reply(("Bon", "jour")))
        url = upstream.base_url(protocol)
        address = {"api_base": {"openai": url}} if name == "gpt_d" else {"base_url": url}
        handlers = {name: {**settings, **address}}
        logs.setup(log)
        logging.getLogger().addHandler(handler)
        try:
            environ = {secret: "a-key"}
            async with supervisor_harness(
                directory, handlers=handlers, installed=True, environ=environ, log=log
            ) as host:
                messages = [{"role": "user", "content": "Hello"}]
                assert (await within(host.ask(name, "chat", messages=messages)))["content"] == [BONJOUR]
                assert [chunk async for chunk in host.chunks(name, "chat", messages=messages)]
        finally:
            logging.getLogger().removeHandler(handler)
            logs.setup(LogConfig())
    fields = [(record, getattr(record, "fields", {})) for record in handler.records]
    return [
        f"{record.levelname} {field['logger']}: {record.getMessage()}"
        for record, field in fields
        if field.get("logger", name) not in (name, "handler_host.lean")
    ]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_hidden_by_default(tmp_path: Path, case: Case) -> None:
    assert await logged_by_sdks(tmp_path, case, LogConfig()) == []


async def test_shown_at_debug(tmp_path: Path) -> None:
    lines = await logged_by_sdks(tmp_path, CASES[0], LogConfig(levels={"gpt_a": "debug"}))
    assert any("HTTP Request: POST" in line for line in lines)
