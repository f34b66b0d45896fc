"""Fallback over HTTP with real workers: another handler runs a dispatch that failed before its first byte."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from handler_host.plugin.errors import ConfigError
from handler_host.testing import Silence, Status, Upstream
from handler_host.testing.script import Reply
from tests.integration.http.serving import Host, events, running
from tests.support import install_plugin

FAILING = '''
import os
from handler_host.chat import ChatHandler
from handler_host.plugin.errors import BY_CODE
from handler_host.plugin import operation

class Handler(ChatHandler):
    """Fails as it is configured to."""

    async def open(self):
        if self.context.config.get("how") == "activation":
            raise RuntimeError("no luck")

    async def stream(self, request):
        how = self.context.config.get("how", "")
        if how == "late":
            yield "It was"
            raise BY_CODE["upstream_error"]("in the middle")
        if how == "crash":
            os._exit(3)
        if how == "bug":
            raise ValueError("a bug")
        if how:
            raise BY_CODE[how]("as told", retry_after=7.0, param="messages[0]")
        yield f"{self.context.handler} says {request.model}"

    @operation
    async def where(self, request: dict) -> str:
        if self.context.config.get("how"):
            raise BY_CODE["upstream_error"]("as told")
        return self.context.handler

    @operation
    async def only_here(self, request: dict) -> str:
        raise BY_CODE["upstream_error"]("as told")
'''
ONLY = FAILING.replace("    @operation\n    async def only_here", "    async def only_here")
ASK = [{"role": "user", "content": "Hi"}]


@contextlib.asynccontextmanager
async def hosted(
    tmp_path: Path, how: str | None = None, second: str | None = None, **options: Any
) -> AsyncIterator[Host]:
    """Run a host with ``first`` that falls back to ``second``, and that one's failures, and ``third``."""
    install_plugin(tmp_path, "first", FAILING)
    for name in ("second", "third"):
        install_plugin(tmp_path, name, ONLY)
    handlers = {
        "first": {"fallback": ("second", "third"), **({"how": how} if how else {})},
        "second": {"fallback": ("first",), **({"how": second} if second else {})},
    }
    handlers["first"] |= options.pop("first", {})
    async with running(tmp_path, handlers=handlers, **options) as host:
        yield host


async def complete(host: Host, model: str = "first", **more: Any) -> tuple[int, str | None, Any]:
    """Return status, ``X-Handler`` and content of a chat completion."""
    async with host.ask("POST", "/v1/chat/completions", json={"model": model, "messages": ASK, **more}) as response:
        return response.status, response.headers.get("X-Handler"), await response.json()


@pytest.mark.parametrize(
    "how",
    [
        "upstream_error",
        "upstream_unreachable",
        "upstream_timeout",
        "upstream_overloaded",
        "upstream_rate_limited",
        "upstream_auth",
        "activation",
        "crash",
        "bug",
    ],
)
async def test_another_handler_answers_and_says_so(tmp_path: Path, how: str) -> None:
    async with hosted(tmp_path, how) as host:
        status, handler, content = await complete(host)
        assert (status, handler, content.get("model")) == (200, "second", "second")
        assert content["choices"][0]["message"]["content"] == "second says None"
        async with host.ask(
            "POST", "/v1/chat/completions", json={"model": "first", "messages": ASK, "stream": True}
        ) as response:
            assert (response.status, response.headers["X-Handler"]) == (200, "second")
            chunks = [data for _, data in events(await response.text()) if data != "[DONE]"]
        assert {chunk["model"] for chunk in chunks} == {"second"}
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "second says None"


async def test_the_time_that_the_first_one_took_is_told(tmp_path: Path) -> None:
    async with hosted(tmp_path, "upstream_error") as host:
        for model, names in (
            ("first", ["failed", "queue", "activate", "handler"]),
            ("third", ["queue", "activate", "handler"]),
        ):
            async with host.ask("POST", "/v1/chat/completions", json={"model": model, "messages": ASK}) as response:
                timing = response.headers["Server-Timing"]
                assert [entry.partition(";")[0] for entry in timing.split(", ")] == names


async def test_a_handler_that_cannot_run_at_all_is_answered_for(tmp_path: Path) -> None:
    async with hosted(tmp_path, first={"enabled": False}) as host:
        assert host.supervisor.status("first").state == "blocked"
        assert (await complete(host))[:2] == (200, "second")


@pytest.mark.parametrize("how", ["upstream_bad_request", "content_refused", "invalid_input"])
async def test_invalid_request_does_not_fall_back(tmp_path: Path, how: str) -> None:
    async with hosted(tmp_path, how) as host:
        status, handler, content = await complete(host)
        assert (status, handler, content["error"]["code"]) == (400, "first", how)
        assert content["error"]["param"] == "messages[0]"
        assert host.supervisor.status("second").state == "cold"
        status, _, content = await complete(host, messages=[])
        assert (status, content["error"]["param"]) == (400, "messages")


async def test_the_first_one_answers_as_long_as_it_can(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host:
        status, handler, content = await complete(host, "first/some-model")
        assert (status, handler, content["model"]) == (200, "first", "first/some-model")
        assert content["choices"][0]["message"]["content"] == "first says some-model"
        assert host.supervisor.status("second").state == "cold"


async def test_another_handler_is_asked_for_its_own_model(tmp_path: Path) -> None:
    async with hosted(tmp_path, "upstream_error") as host:
        _, handler, content = await complete(host, "first/some-model")
        assert handler == "second"
        assert content["choices"][0]["message"]["content"] == "second says None"


async def test_the_list_is_gone_through_in_its_order(tmp_path: Path) -> None:
    async with hosted(tmp_path, "upstream_overloaded", "invalid_input") as host:
        status, handler, content = await complete(host)
        assert (status, handler, content["model"]) == (200, "third", "third")


async def test_first_error_is_returned_with_the_fallbacks_outcomes(tmp_path: Path) -> None:
    async with (
        hosted(tmp_path, "upstream_rate_limited", "activation", first={"fallback": ("second",)}) as host,
        host.ask("POST", "/v1/chat/completions", json={"model": "first", "messages": ASK}) as response,
    ):
        error = (await response.json())["error"]
        assert (response.status, response.headers["X-Handler"], response.headers["Retry-After"]) == (429, "first", "7")
        assert error["code"] == "upstream_rate_limited"
        assert error["message"] == "as told (its fallbacks failed, too: second: activation_failed)"
        assert error["details"]["fallbacks"] == {"second": "activation_failed"}


async def test_two_may_name_each_other_and_each_is_asked_once(tmp_path: Path) -> None:
    async with hosted(tmp_path, "upstream_error", "upstream_error", first={"fallback": ("second",)}) as host:
        for model, other in (("first", "second"), ("second", "first")):
            status, handler, content = await complete(host, model)
            assert (status, handler) == (502, model)
            assert content["error"]["details"]["fallbacks"] == {other: "upstream_error"}
        assert host.supervisor.status("first").dispatches == 2


async def test_after_the_first_piece_an_error_is_an_error(tmp_path: Path) -> None:
    async with hosted(tmp_path, "late") as host:
        async with host.ask(
            "POST", "/v1/chat/completions", json={"model": "first", "messages": ASK, "stream": True}
        ) as response:
            assert response.headers["X-Handler"] == "first"
            told = [data for _, data in events(await response.text())]
        assert told[-1]["error"]["code"] == "upstream_error"
        assert host.supervisor.status("second").state == "cold"
        # Without a stream nothing was sent yet.
        assert (await complete(host))[:2] == (200, "second")


async def test_native_routes_fall_back_to_handlers_with_the_operation(tmp_path: Path) -> None:
    async with hosted(tmp_path, "upstream_error") as host:
        async with host.ask("POST", "/v1/handlers/first/where", json={}) as response:
            assert (response.headers["X-Handler"], await response.json()) == ("second", "second")
        headers = {"Accept": "text/event-stream"}
        async with host.ask("POST", "/v1/handlers/first/where", json={}, headers=headers) as response:
            assert response.headers["X-Handler"] == "second"
            assert events(await response.text())[0] == ("message", "second")
        status, content = await host.json("POST", "/v1/handlers/first/only_here", json={})
        assert status == 502
        assert content["error"]["details"]["fallbacks"] == {"second": "unknown_operation", "third": "unknown_operation"}
        assert (await host.json("POST", "/v1/handlers/first/nothing", json={}))[0] == 404


async def test_the_deadline_is_for_all_of_them_together(tmp_path: Path) -> None:
    async with Upstream().serve() as upstream:
        upstream.respond_with(Silence())
        install_plugin(tmp_path, "silent", SILENT)
        install_plugin(tmp_path, "other", ONLY)
        handlers = {"silent": {"fallback": ("other",), "url": upstream.url}}
        async with running(tmp_path, handlers=handlers, server={"request_timeout": 0.5}) as host:
            await host.supervisor.load("silent")
            status, handler, content = await complete(host, "silent")
            assert (status, handler, content["error"]["code"]) == (504, "silent", "deadline_exceeded")
            assert host.supervisor.status("other").state == "cold"
            await asyncio.wait_for(asyncio.wrap_future(upstream.disconnected), 30)


async def test_first_byte_timeout_falls_back(tmp_path: Path) -> None:
    async with Upstream().serve() as upstream:
        upstream.respond_with(Silence())
        install_plugin(tmp_path, "silent", SILENT)
        install_plugin(tmp_path, "other", ONLY)
        own = {"fallback": ("other",), "url": upstream.url, "first_byte_timeout": 0.3}
        async with running(tmp_path, handlers={"silent": own}) as host:
            body = {"model": "silent", "messages": ASK, "stream": True}
            async with host.ask("POST", "/v1/chat/completions", json=body) as response:
                assert response.headers["X-Handler"] == "other"
            await asyncio.wait_for(asyncio.wrap_future(upstream.disconnected), 30)


async def test_disconnect_during_the_fallback_leaves_nothing_behind(tmp_path: Path) -> None:
    async with Upstream().serve() as upstream:
        upstream.respond_with(Silence())
        install_plugin(tmp_path, "first", FAILING)
        install_plugin(tmp_path, "silent", SILENT)
        handlers = {"first": {"how": "upstream_error", "fallback": ("silent",)}, "silent": {"url": upstream.url}}
        async with running(tmp_path, handlers=handlers) as host:
            asking = asyncio.create_task(complete(host, stream=True))
            await asyncio.wait_for(asyncio.wrap_future(upstream.first_request), 30)
            asking.cancel()
            await asyncio.wait_for(asyncio.wrap_future(upstream.disconnected), 30)
            await host.supervisor.unload("silent")
            assert host.supervisor.in_flight == 0


@pytest.mark.sdks
async def test_unreachable_provider_falls_back_to_another_instance(tmp_path: Path) -> None:
    """The real SDK, behind a name of its own in each environment: what the feature is for."""
    from handler_host.testing import host_under_test

    def run() -> tuple[list[tuple[int, Any]], str]:
        with Upstream().run() as upstream:
            upstream.respond_with(Status(503), Reply(("Bon", "jour")))
            config = (
                f'[handlers.gpt_a]\nbase_url = "{upstream.base_url("openai")}"\nretries = 0\nfallback = ["gpt_e"]\n'
                "[handlers.gpt_e]\ncontext = 512\nmax_tokens = 4\n"
            )
            with host_under_test(config) as host:
                body = {"model": "gpt_a/gpt-4o", "messages": ASK}
                return [host.request("POST", "/v1/chat/completions", body) for _ in range(2)], host.log

    (by_e, by_a), log = await asyncio.to_thread(run)
    assert by_e[1]["model"] == "gpt_e"
    assert by_e[1]["choices"][0]["message"]["content"]
    assert (by_a[1]["model"], by_a[1]["choices"][0]["message"]["content"]) == ("served-model", "Bonjour")
    assert "fallback handler=gpt_a error=upstream_overloaded fallback=gpt_e" in log


SILENT = """
import aiohttp
from handler_host.chat import ChatHandler

class Handler(ChatHandler):
    async def stream(self, request):
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
        async with aiohttp.ClientSession() as session:
            async with session.post(self.context.config["url"] + "/v1/chat/completions", json=body) as answer:
                yield await answer.text()
"""


async def test_a_fallback_that_is_no_handler_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        async with hosted(tmp_path, first={"fallback": ("secnd",)}):
            pass
    expected = "[handlers.first] fallback: unknown handler 'secnd'; did you mean 'second'?"
    assert caught.value.message == expected
    with pytest.raises(ConfigError, match=r"\[defaults\] fallback: unknown handler 'fourth'"):
        async with hosted(tmp_path, policy={"fallback": ("fourth",)}):
            pass


async def test_removed_fallback_is_skipped_with_a_warning(tmp_path: Path) -> None:
    async with hosted(tmp_path, "upstream_error") as host:
        for path in tmp_path.glob("second-*.dist-info/*"):
            path.unlink()
        next(tmp_path.glob("second-*.dist-info")).rmdir()
        report = await host.supervisor.rescan()
        assert any(warning.startswith("[handlers.first] fallback:") for warning in report.warnings)
        assert (await complete(host))[:2] == (200, "third")


async def test_the_defaults_list_is_for_all_and_means_nobody_itself(tmp_path: Path) -> None:
    install_plugin(tmp_path, "first", FAILING)
    install_plugin(tmp_path, "third", FAILING)
    handlers = {name: {"how": "upstream_error"} for name in ("first", "third")}
    async with running(tmp_path, handlers=handlers, policy={"fallback": ("third",)}) as host:
        _, _, content = await complete(host)
        assert content["error"]["details"]["fallbacks"] == {"third": "upstream_error"}
        _, _, content = await complete(host, "third")
        assert "details" not in content["error"]


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/v1/chat/completions", {"model": "first/some-model", "messages": ASK}, '"model":"second"'),
        ("/v1/messages", {"model": "first/some-model", "max_tokens": 9, "messages": ASK}, '"model":"second"'),
        ("/v1/responses", {"model": "first/some-model", "input": "Hi"}, '"model":"second"'),
        (
            "/v1beta/models/first/some-model:generateContent",
            {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]},
            '"modelVersion":"second"',
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_every_protocol_turns_and_names_who_answers(
    tmp_path: Path, path: str, body: dict[str, Any], named: str, stream: bool
) -> None:
    if stream:
        of_gemini = "generateContent" in path
        path = path.replace(":generateContent", ":streamGenerateContent?alt=sse")
        body = body if of_gemini else {**body, "stream": True}
    async with hosted(tmp_path, "upstream_overloaded") as host, host.ask("POST", path, json=body) as response:
        text = await response.text()
        assert (response.status, response.headers["X-Handler"]) == (200, "second"), text
        assert named in text.replace('": ', '":')
        assert "second says None" in text
