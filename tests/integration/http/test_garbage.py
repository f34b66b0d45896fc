"""What has ended is freed at once: nothing of it waits for the cyclic collector, which comes rarely to a big heap."""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import FrameType

import pytest

from tests.integration.http.serving import Host, running
from tests.support import install_plugin, install_puppet, until

HANDLER = '''
from handler_host.chat import ChatHandler
from handler_host.plugin.errors import UpstreamError

class Handler(ChatHandler):
    """Fails at a word."""

    async def stream(self, request):
        yield "It was"
        if request.last_text() == "BOOM":
            raise ValueError("a bug")
        yield " so"
'''
DOWN = HANDLER.replace('yield "It was"', 'raise UpstreamError("down")')
ASK = [{"role": "user", "content": "Hi"}]
BOOM = [{"role": "user", "content": "BOOM"}]
TIMES = 3
"""Repetitions of each request: garbage that only the first one makes must not count."""


@contextlib.contextmanager
def uncollected(kinds: Counter[str]) -> Iterator[None]:
    """Count into ``kinds`` what of the host's own only the collector would free."""
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield
        gc.collect()
        for found in gc.garbage:
            kind = type(found)
            if isinstance(found, FrameType):
                if "/handler_host/" in found.f_code.co_filename:
                    kinds[f"frame of {found.f_code.co_qualname}"] += 1
            elif kind.__module__.partition(".")[0] == "handler_host":
                kinds[kind.__qualname__] += 1
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    install_puppet(tmp_path)
    install_plugin(tmp_path, "wordy", HANDLER)
    install_plugin(tmp_path, "down", DOWN)
    install_plugin(tmp_path, "also_down", DOWN)
    install_plugin(tmp_path, "broken", "raise RuntimeError('no')")
    async with running(tmp_path, policy={"crash_limit": 100}, handlers={"down": {"fallback": ["also_down"]}}) as host:
        yield host


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/handlers/puppet/echo", {}, 200),
        ("/v1/handlers/nobody/echo", {}, 404),
        ("/v1/handlers/puppet/nothing", {}, 404),
        ("/v1/handlers/broken/echo", {}, 502),
        ("/v1/chat/completions", {"model": "wordy", "messages": 3}, 400),
        ("/v1/chat/completions", {"model": "nobody", "messages": ASK}, 404),
        ("/v1/chat/completions", {"model": "wordy", "messages": BOOM}, 500),
        ("/v1/chat/completions", {"model": "wordy", "messages": BOOM, "stream": True}, 200),
        ("/v1/chat/completions", {"model": "down", "messages": ASK}, 502),
        ("/v1/messages", {"model": "nobody", "max_tokens": 9, "messages": ASK}, 404),
        ("/v1beta/models/nobody:generateContent", {"contents": [{"parts": [{"text": "Hi"}]}]}, 404),
    ],
)
async def test_a_request_leaves_nothing_for_the_collector(host: Host, path: str, body: object, status: int) -> None:
    async def ask() -> int:
        async with host.ask("POST", path, json=body) as response:
            await response.read()
            status: int = response.status
            return status

    assert await ask() == status
    left: Counter[str] = Counter()
    with uncollected(left):
        for _ in range(TIMES):
            await ask()
    assert left == {}


async def test_a_failed_activation_leaves_nothing_for_the_collector(tmp_path: Path) -> None:
    install_plugin(tmp_path, "broken", "raise RuntimeError('no')")
    async with running(tmp_path, policy={"crash_limit": 100, "backoff": 0.0, "backoff_max": 0.0}) as host:

        async def fail() -> None:
            assert (await host.json("POST", "/v1/handlers/broken/echo", json={}))[0] == 502

        await fail()
        left: Counter[str] = Counter()
        with uncollected(left):
            for _ in range(TIMES):
                await fail()
        assert host.supervisor.status("broken").generation == TIMES + 1
        assert left == {}


@pytest.mark.parametrize("how", ["unload", "crash"])
async def test_a_worker_that_ended_leaves_nothing_for_the_collector(host: Host, how: str) -> None:
    async def live() -> None:
        assert (await host.json("POST", "/v1/handlers/puppet/echo", json={}))[0] == 200
        if how == "unload":
            await host.supervisor.unload("puppet", "drain")
        else:
            status, _ = await host.json("POST", "/v1/handlers/puppet/script", json={"steps": ["exit:3"]})
            assert status == 502
        await until(lambda: host.supervisor.status("puppet").state in ("cold", "failed"))

    await live()
    left: Counter[str] = Counter()
    with uncollected(left):
        for _ in range(TIMES):
            await live()
    assert left == {}
