"""The native routes: JSON in, JSON or server-sent events out."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from handler_host.http import sse
from tests.integration.http.serving import events, running
from tests.support import install_plugin, install_puppet, until, within

SSE = {"Accept": "text/event-stream", "Content-Type": "application/json"}


async def test_the_list_has_every_handler_and_why_one_cannot_run(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    install_plugin(tmp_path, "locked", "class Handler: ...", manifest="[secrets.LOCKED_KEY]\n")
    async with running(tmp_path) as host:
        status, response = await host.json("GET", "/v1/handlers")
        assert status == 200
        states = {handler["name"]: handler["state"] for handler in response["handlers"]}
        assert states == {"puppet": "cold", "locked": "missing-secret"}
        status, locked = await host.json("GET", "/v1/handlers/locked")
        assert status == 200
        assert "LOCKED_KEY" in locked["reason"]
        status, response = await host.json("POST", "/v1/handlers/locked/any", data="{}")
        assert (status, response["error"]["code"]) == (503, "handler_unavailable")
        assert "LOCKED_KEY" in response["error"]["message"]


async def test_a_dispatch_is_answered_with_json_and_the_three_headers(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        async with host.ask("POST", "/v1/handlers/puppet/echo", data='{"a": "ü"}') as response:
            body = await response.json()
            assert response.status == 200
            assert response.headers["X-Handler"] == "puppet"
            assert response.headers["X-Request-ID"]
            names = [part.split(";")[0] for part in response.headers["Server-Timing"].split(", ")]
            assert names == ["queue", "activate", "handler"]
        assert body["a"] == "ü"
        assert body["pid"] == host.supervisor.status("puppet").pid


@pytest.mark.parametrize(
    ("given", "kept"),
    [("my-number_1.0", True), ("x" * 128, True), ("x" * 129, False), ("two words", False), ("<b>", False)],
)
async def test_a_sane_request_number_is_kept_and_another_is_replaced(tmp_path: Path, given: str, kept: bool) -> None:
    async with running(tmp_path) as host, host.ask("GET", "/health/live", headers={"X-Request-ID": given}) as response:
        assert (response.headers["X-Request-ID"] == given) is kept


async def test_empty_body_is_an_object_and_operations_may_have_dots(tmp_path: Path) -> None:
    source = """
from handler_host.plugin import operation
class Handler:
    @operation("log.append")
    async def append(self, request: dict) -> dict:
        return {"got": request}
"""
    install_plugin(tmp_path, "sheets", source)
    async with running(tmp_path) as host:
        assert await host.json("POST", "/v1/handlers/sheets/log.append") == (200, {"got": {}})


async def test_a_client_that_accepts_events_gets_a_stream_with_an_end(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        body = '{"steps": ["", "", ""]}'
        async with host.ask("POST", "/v1/handlers/puppet/stream", data=body, headers=SSE) as response:
            assert response.status == 200
            assert response.content_type == "text/event-stream"
            assert {"X-Request-ID", "X-Handler", "Server-Timing"} <= set(response.headers)
            text = await response.text()
        assert events(text) == [
            ("message", {"number": 0}),
            ("message", {"number": 1}),
            ("message", {"number": 2}),
            ("end", {}),
        ]
        status, whole = await host.json("POST", "/v1/handlers/puppet/stream", data=body)
        assert (status, whole) == (200, [{"number": 0}, {"number": 1}, {"number": 2}])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("{", "not JSON"),
        ('{"a": 1,}', "not JSON"),
        ("nonsense", "not JSON"),
        (b'{"a": "\xff"}', "not UTF-8"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
async def test_what_is_no_json_is_refused_before_anything_is_activated(
    tmp_path: Path, body: str | bytes, said: str
) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        status, response = await host.json("POST", "/v1/handlers/puppet/echo", data=body)
        assert (status, response["error"]["code"]) == (400, "invalid_input")
        assert said in response["error"]["message"]
        assert host.supervisor.status("puppet").state == "cold"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
async def test_another_media_type_is_refused(tmp_path: Path, kind: str) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        headers = {"Content-Type": kind}
        status, response = await host.json("POST", "/v1/handlers/puppet/echo", data="{}", headers=headers)
        assert (status, response["error"]["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"])
async def test_json_under_its_other_names_is_taken(tmp_path: Path, kind: str) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        headers = {"Content-Type": kind}
        assert (await host.json("POST", "/v1/handlers/puppet/echo", data="{}", headers=headers))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/handlers/nobody", 404, "unknown_handler"),
        ("POST", "/v1/handlers/nobody/echo", 404, "unknown_handler"),
        ("GET", "/nowhere", 404, "not_found"),
        ("DELETE", "/v1/handlers", 405, "method_not_allowed"),
        ("GET", "/v1/handlers/puppet/echo", 405, "method_not_allowed"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
    ],
)
async def test_what_does_not_exist_is_said_in_the_envelope(
    tmp_path: Path, method: str, path: str, status: int, code: str
) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host, host.ask(method, path) as response:
        error = (await response.json())["error"]
        assert (response.status, error["code"]) == (status, code)
        assert error["request_id"] == response.headers["X-Request-ID"]
        assert response.headers["x-should-retry"] == "false"
        assert ("Allow" in response.headers) == (status == 405)


async def test_unknown_operation_of_an_active_handler_names_known_ones(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        await host.json("POST", "/v1/handlers/puppet/echo")
        status, response = await host.json("POST", "/v1/handlers/puppet/ecco")
        assert (status, response["error"]["code"]) == (404, "unknown_operation")
        assert "echo" in response["error"]["message"]


async def test_handler_errors_keep_their_code_and_hide_internals(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        status, response = await host.json("POST", "/v1/handlers/puppet/refuse", data="{}")
        assert (status, response["error"]["code"], response["error"]["param"]) == (400, "invalid_input", "field")
        async with host.ask("POST", "/v1/handlers/puppet/refuse", data='{"limit": true}') as limited:
            assert limited.status == 429
            assert limited.headers["Retry-After"] == "7"
            assert limited.headers["x-should-retry"] == "true"
            assert (await limited.json())["error"]["type"] == "rate_limit_error"
        async with host.ask("POST", "/v1/handlers/puppet/fail", data="{}") as failed:
            text = await failed.text()
            assert failed.status == 500
            assert "secret" not in text
            assert failed.headers["X-Request-ID"] in text
            assert failed.headers["X-Handler"] == "puppet"


async def test_a_failed_activation_is_502_for_streams_too(tmp_path: Path) -> None:
    install_plugin(tmp_path, "broken", "raise ImportError('no module named gizmo')")
    async with running(tmp_path, policy={"backoff": 0.0}) as host:
        for headers in ({}, SSE):
            status, response = await host.json("POST", "/v1/handlers/broken/any", data="{}", headers=headers)
            assert (status, response["error"]["code"]) == (502, "activation_failed")
            assert "gizmo" in response["error"]["message"]


async def test_stream_error_is_a_status_or_after_a_chunk_an_event(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host:

        async def stream(steps: list[str]) -> tuple[int, str]:
            data = json.dumps({"steps": steps})
            async with host.ask("POST", "/v1/handlers/puppet/stream", data=data, headers=SSE) as response:
                return response.status, await response.text()

        status, text = await stream(["raise"])
        assert (status, json.loads(text)["error"]["code"]) == (500, "handler_error")
        status, text = await stream(["", "raise"])
        first, last = events(text)
        assert (status, first) == (200, ("message", {"number": 0}))
        assert last[0] == "error"
        assert last[1]["error"]["code"] == "handler_error"


async def test_a_client_that_leaves_ends_its_dispatch_and_no_other(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        host.control.make("closed", "other")

        async def first_chunk(body: dict[str, Any]) -> Any:
            response = await host.ask("POST", "/v1/handlers/puppet/stream", data=json.dumps(body), headers=SSE)
            assert b"0" in await within(response.content.readuntil(b"\n\n"))
            return response

        leaving = await first_chunk({"steps": ["", "forever"], "at_close": "closed"})
        staying = await first_chunk({"steps": ["", "wait:other"]})
        assert host.supervisor.in_flight == 2
        leaving.close()
        assert await host.control.wait_for("closed") == "now"
        await until(lambda: host.supervisor.in_flight == 1)
        await host.control.signal("other")
        assert events(await within(staying.text()))[-1] == ("end", {})
        await until(lambda: host.supervisor.in_flight == 0)


async def test_disconnect_releases_the_lease(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        host.control.make("started")
        body = '{"steps": ["tell:started", "forever"]}'
        asked = asyncio.ensure_future(host.json("POST", "/v1/handlers/puppet/script", data=body))
        await host.control.wait_for("started")
        asked.cancel()
        await until(lambda: host.supervisor.in_flight == 0)


async def test_slow_client_stalls_the_handler_and_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_INTERVAL_S", 0.1)
    monkeypatch.setattr(sse, "CLIENT_STALL_S", 0.5)
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        _, writer = await asyncio.open_connection("127.0.0.1", host.port, limit=1024)
        body = b'{"size": 10000}'
        writer.write(
            b"POST /v1/handlers/puppet/flood HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        counted = tmp_path / "control" / "flooded"
        await until(lambda: counted.exists() and counted.read_text() != "")
        await until(lambda: host.supervisor.in_flight == 0)
        # What was taken is in the buffers of two sockets, and not in the memory of the host.
        assert int(counted.read_text()) * 10_000 < 16 * 1024**2
        writer.close()


async def test_a_silent_stream_is_kept_alive_by_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_INTERVAL_S", 0.05)
    monkeypatch.setattr(sse, "MIN_CHECK_INTERVAL_S", 0.05)
    install_puppet(tmp_path)
    async with running(tmp_path) as host:
        host.control.make("more")
        body = '{"steps": ["", "wait:more"]}'
        async with host.ask("POST", "/v1/handlers/puppet/stream", data=body, headers=SSE) as response:
            text = b""
            while text.count(b": keep-alive\n\n") < 2:
                text += await within(response.content.readany())
            await host.control.signal("more")
            text += await response.content.read()
        assert events(text.decode()) == [("message", {"number": 0}), ("message", {"number": 1}), ("end", {})]


async def test_request_timeout_covers_the_wait_for_a_worker(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    handlers = {"puppet": {"control": f"{tmp_path}/control", "at_activation": "wait:go"}}
    async with running(tmp_path, server={"request_timeout": 0.3}, handlers=handlers) as host:
        host.control.make("go")
        for headers in ({}, SSE):
            status, response = await host.json("POST", "/v1/handlers/puppet/echo", data="{}", headers=headers)
            assert (status, response["error"]["code"]) == (503, "handler_loading")
            assert response["error"]["retry_after"] > 0
        await host.control.signal("go")


async def test_the_request_timeout_covers_the_answer(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path, server={"request_timeout": 0.5}) as host:
        await host.supervisor.load("puppet")
        status, response = await host.json("POST", "/v1/handlers/puppet/script", data='{"steps": ["forever"]}')
        assert (status, response["error"]["code"]) == (504, "deadline_exceeded")
        assert "request_timeout" in response["error"]["message"]


async def test_a_full_queue_is_429_with_the_time_to_come_again(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path, policy={"max_concurrency": 1, "max_queue": 1}) as host:
        host.control.make("started", "go")
        steps = '{"steps": ["tell:started", "wait:go"]}'
        running_one = asyncio.ensure_future(host.json("POST", "/v1/handlers/puppet/script", data=steps))
        await host.control.wait_for("started")
        queued = asyncio.ensure_future(host.json("POST", "/v1/handlers/puppet/echo"))
        await until(lambda: host.supervisor.status("puppet").queued == 1)
        async with host.ask("POST", "/v1/handlers/puppet/echo") as refused:
            assert refused.status == 429
            assert int(refused.headers["Retry-After"]) >= 1
            assert (await refused.json())["error"]["code"] == "queue_full"
        await host.control.signal("go")
        assert (await running_one)[0] == 200
        assert (await queued)[0] == 200
