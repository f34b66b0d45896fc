"""One line for each request, and `why` for each failed one."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from handler_host._internal.log import JsonFormatter, TextFormatter
from handler_host.config import LogConfig
from tests.integration.http.serving import ADMIN, PARROT, running
from tests.support import Control, install_plugin, install_puppet, until, within

CHAT = "/v1/chat/completions"
KEY = "the-key-of-a-consumer"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    install_puppet(tmp_path)
    install_plugin(tmp_path, "parrot", PARROT)
    return tmp_path


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Any:
    """Return the access lines so far."""
    caplog.set_level(logging.DEBUG, "handler_host.access")
    return lambda: [record for record in caplog.records if record.name == "handler_host.access"]


def fields(record: logging.LogRecord) -> dict[str, Any]:
    figures: dict[str, Any] = record.__dict__["fields"]
    return figures


def chat(text: str, **more: Any) -> str:
    return json.dumps({"model": "parrot/large", "messages": [{"role": "user", "content": text}], **more})


async def test_each_request_has_one_line_in_text_and_json(root: Path, lines: Any) -> None:
    async with running(root, keys=(KEY,)) as host:
        key = {"Authorization": f"Bearer {KEY}"}
        async with host.ask("POST", CHAT, data=chat("hello you", stream=True), headers=key) as response:
            streamed = await response.read()
        await host.json("POST", "/v1/handlers/puppet/echo", data="{}", headers=key)
        await host.json("GET", "/health/ready")
    stream, echo, health = lines()
    assert [record.levelno for record in (stream, echo, health)] == [logging.INFO, logging.INFO, logging.DEBUG]
    figures = fields(stream)
    assert figures["request_id"] == response.headers["X-Request-ID"]
    expected: dict[str, Any] = {"consumer": "key-1", "protocol": "openai", "route": f"POST {CHAT}", "handler": "parrot"}
    expected |= {"model": "parrot/large", "status": 200, "tokens_in": 3, "tokens_out": 2}
    assert expected.items() <= figures.items()
    assert figures["total_s"] >= figures["activate_s"] > 0 <= figures["first_chunk_s"]
    assert figures["bytes_in"] == len(chat("hello you", stream=True))
    assert figures["bytes_out"] >= len(streamed)
    assert {"protocol": "native", "operation": "echo", "handler": "puppet"}.items() <= fields(echo).items()
    assert re.search(r" model=parrot/large status=200 queue_s=\d+\.\d{3} ", TextFormatter().format(stream))
    assert json.loads(JsonFormatter().format(stream))["tokens_out"] == 2


async def test_data_that_is_not_http_has_a_line_and_a_record_too(root: Path, lines: Any) -> None:
    async with running(root, keys=(KEY,)) as host:
        for data in (b"\x16\x03\x01 a TLS client\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"x" * 300_000 + b"\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(host.url.rpartition(":")[2]))
            writer.write(data)
            response = await within(reader.read())
            writer.close()
            assert b" 4" in response[:12]
        first, second = lines()
        status, content = await host.admin("GET", f"/failures/{fields(first)['request_id']}")
        assert (status, content["failures"][0]["code"]) == (200, "bad_request")
    assert (fields(first)["route"], fields(first)["status"], fields(first)["client"]) == ("not HTTP", 400, "127.0.0.1")
    assert fields(second)["status"] == 431


async def test_each_failure_has_one_line_with_its_cause(root: Path, lines: Any) -> None:
    async with running(root, keys=(KEY,)) as host:
        key = {"Authorization": f"Bearer {KEY}"}
        bodies = [("LIMIT", False), ("hello LIMIT", True), ("BOOM", False)]
        for text, stream in bodies:
            async with host.ask("POST", CHAT, data=chat(text, stream=stream), headers=key) as response:
                await response.read()
        await host.json("POST", CHAT, data=chat("hello"))
        await host.json("POST", CHAT, data=chat("hello"), headers={"Authorization": f"Bearer {ADMIN}"})
        await host.json("GET", "/nothing")
        await host.json("POST", CHAT, data="{", headers=key)
    records = lines()
    assert [(fields(record)["status"], fields(record)["code"]) for record in records] == [
        (429, "upstream_rate_limited"),
        (200, "upstream_rate_limited"),
        (500, "handler_error"),
        (401, "invalid_key"),
        (403, "forbidden"),
        (404, "not_found"),
        (400, "invalid_input"),
    ]
    assert {record.levelno for record in records} == {logging.WARNING}
    assert fields(records[0])["error"] == "slow down"
    assert fields(records[3])["client"] == "127.0.0.1"
    assert "a secret detail" not in str([fields(record) for record in records])


async def test_a_client_that_leaves_is_not_a_warning(root: Path, lines: Any) -> None:
    async with running(root) as host:
        control = Control(root / "control")
        control.make("here")
        body = json.dumps({"steps": ["tell:here", "forever"]})
        asking = asyncio.create_task(host.json("POST", "/v1/handlers/puppet/script", data=body))
        await control.wait_for("here")
        asking.cancel()
        await until(lambda: bool(lines()))
        (record,) = lines()
        assert (record.levelno, fields(record)["status"], fields(record)["code"]) == (logging.INFO, 499, "cancelled")
        status, content = await host.admin("GET", f"/failures/{fields(record)['request_id']}")
        assert (status, content["failures"][0]["code"]) == (200, "cancelled")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"requests": "failures"}, [404]),
        ({"requests": "none"}, []),
        ({"requests_sample": 0.25}, [200, 404]),
        ({"requests_level": "debug", "failures_level": "error"}, [200, 200, 200, 200, 404]),
    ],
)
async def test_lines_can_be_chosen(root: Path, lines: Any, settings: dict[str, Any], expected: list[int]) -> None:
    async with running(root, log=LogConfig(**settings)) as host:
        for _ in range(4):
            await host.json("GET", "/v1/models")
        await host.json("GET", "/nothing")
        records = lines()
        status, content = await host.admin("GET", "/failures")
    assert [fields(record)["status"] for record in records] == expected
    assert (status, [failure["code"] for failure in content["failures"]]) == (200, ["not_found"])
    if "requests_level" in settings:
        assert [record.levelno for record in records] == [logging.DEBUG] * 4 + [logging.ERROR]


async def test_records_of_failures_name_attempts_and_not_the_prompt(root: Path) -> None:
    prompt = "my secret plan for the garden of my neighbour LIMIT"
    handlers = {"parrot": {"fallback": ("puppet",)}}
    async with running(root, handlers=handlers) as host:
        async with host.ask("POST", CHAT, data=chat("LIMIT " + prompt)) as response:
            request_id = response.headers["X-Request-ID"]
        status, content = await host.admin("GET", f"/failures/{request_id}")
        assert status == 200
        (failure,) = content["failures"]
        assert failure["code"] == "upstream_rate_limited"
        assert [(attempt[4], attempt[0]) for attempt in failure["attempts"]] == [
            ("parrot", "upstream_rate_limited"),
            ("puppet", "unknown_operation"),
        ]
        assert "garden" not in str(content)
        assert (await host.admin("GET", "/failures?handler=parrot&limit=1"))[1]["failures"] == [failure]
        for path, expected in {"/failures/none": 404, "/failures?limit=0": 400, "/failures?limit=x": 400}.items():
            assert (await host.admin("GET", path))[0] == expected
        assert (await host.json("GET", "/admin/failures"))[0] == 401
