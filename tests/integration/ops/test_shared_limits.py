"""Limits, usage and learned memory of several hosts in one Redis server, and what holds while it is away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from handler_host.app import create_app
from handler_host.auth import failed_login_throttle
from handler_host.auth.consumers import Consumer, Consumers
from handler_host.cli.findings import Level
from handler_host.cli.shared_check import check_shared
from handler_host.config import AuthConfig, Config, MemoryConfig, SharedConfig
from handler_host.config.loader import hash_key
from handler_host.dispatch.dispatcher import Dispatcher
from handler_host.dispatch.request import Caller, Request
from handler_host.http.request_context import RequestContext
from handler_host.plugin.errors import ConfigError, LimitsUnavailable, RateLimited
from handler_host.server import serving
from handler_host.telemetry.failures import FailureText
from tests.integration.http.serving import ADMIN, PARROT, Host, configured, running
from tests.integration.ops.redis_server import PASSWORD, SERVER, Server
from tests.support import LIMIT, Control, install_plugin, install_puppet, until, within

pytest.importorskip("redis", reason="redis-py is not installed (handler-host[redis])")
from redis.asyncio import Redis

from handler_host.auth.shared_limits import SharedLimits
from handler_host.shared.store import SharedStore, StoreUnavailable, server_version

pytestmark = pytest.mark.skipif(SERVER is None, reason="neither redis-server nor valkey-server is installed")


def options(limits: str, url: str, **shared: Any) -> dict[str, Any]:
    return {
        "auth": AuthConfig(
            admin_token=hash_key(ADMIN), consumers=f'[consumers.a]\nhash = "{hash_key("key-a")}"\n{limits}\n'
        ),
        "shared": SharedConfig(url=url, **{"timeout": 5.0, **shared}),
        "handlers": {"parrot": {}},
    }


@contextlib.asynccontextmanager
async def hosts(root: Path, limits: str, url: str, **shared: Any) -> AsyncIterator[tuple[Host, Host]]:
    """Run two hosts."""
    given = options(limits, url, **shared)
    async with running(root, **given) as first, serving(configured(root, **given)) as (supervisor, url):
        yield first, Host(root, url, supervisor, first.session)


async def echo(host: Host, key: str = "key-a") -> int:
    headers = {"Authorization": f"Bearer {key}"}
    status, _ = await host.json("POST", "/v1/handlers/puppet/echo", data="{}", headers=headers)
    return int(status)


async def models(host: Host) -> int:
    return int((await host.json("GET", "/v1/models", headers={"Authorization": "Bearer key-a"}))[0])


async def chat(host: Host) -> int:
    body = json.dumps({"model": "parrot", "messages": [{"role": "user", "content": "hello"}]})
    status, _ = await host.json("POST", "/v1/chat/completions", data=body, headers={"Authorization": "Bearer key-a"})
    return int(status)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a condition that itself sends requests holds."""
    deadline = time.monotonic() + LIMIT
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def is_shared_again(host: Host) -> bool:
    calls = host.supervisor.telemetry.counters.shared_calls
    before = calls["ok"]
    return await models(host) == 200 and calls["ok"] > before


async def test_requests_of_all_hosts_count_together_without_a_race(tmp_path: Path, server: Server) -> None:
    async with hosts(tmp_path, "requests_per_minute = 20", server.url) as pair:
        statuses = await asyncio.gather(*(models(pair[number % 2]) for number in range(60)))
        assert (statuses.count(200), statuses.count(429)) == (20, 40)
        async with pair[0].ask("GET", "/v1/models", headers={"Authorization": "Bearer key-a"}) as response:
            assert 1 <= int(response.headers["Retry-After"]) <= 61
            assert "20 requests per minute" in (await response.json())["error"]["message"]
        assert sum(host.supervisor.telemetry.counters.refused["a", "rate"] for host in pair) == 41


async def test_tokens_and_usage_of_all_hosts_count_together(tmp_path: Path, server: Server) -> None:
    install_plugin(tmp_path, "parrot", PARROT)
    async with hosts(tmp_path, "tokens_per_day = 10", server.url) as (first, second):
        assert [await chat(first), await chat(second)] == [200, 200]
        report: dict[str, Any] = {}

        async def is_counted() -> bool:
            report.update((await first.admin("GET", "/usage"))[1])
            return [row["output"] for row in report["usage"]] == [4]

        await eventually(is_counted)
        assert report["all_hosts"] is True
        assert [(row["consumer"], row["handler"], row["input"]) for row in report["usage"]] == [("a", "parrot", 6)]
        assert [(row["minute_tokens"], row["day_tokens"]) for row in report["budgets"]] == [(10, 10)]
        assert [await chat(first), await chat(second), await models(second)] == [429, 429, 200]


async def test_wrong_keys_of_an_address_count_together(tmp_path: Path, server: Server) -> None:
    async with hosts(tmp_path, "", server.url) as pair:
        for number in range(failed_login_throttle.FREE_FAILURES):
            assert await echo(pair[number % 2], "wrong") == 401
        started_at = time.monotonic()
        assert await echo(pair[0], "wrong") == 401
        assert time.monotonic() - started_at >= failed_login_throttle.FIRST_DELAY_S


async def hold(host: Host, fifo: str) -> int:
    """Run a dispatch that ends when the test writes to a FIFO; return its status."""
    body = json.dumps({"steps": [f"wait:{fifo}"]})
    headers = {"Authorization": "Bearer key-a"}
    return int((await host.json("POST", "/v1/handlers/puppet/script", data=body, headers=headers))[0])


async def test_dispatches_in_flight_of_all_hosts_count_together(tmp_path: Path, server: Server) -> None:
    install_puppet(tmp_path)
    async with hosts(tmp_path, "concurrency = 2", server.url) as pair:
        control = Control(tmp_path / "control")
        control.make("end0", "end1")
        held = [asyncio.ensure_future(hold(host, f"end{number}")) for number, host in enumerate(pair)]
        await until(lambda: all(host.supervisor.status("puppet").in_flight for host in pair))
        assert [await echo(host) for host in pair] == [429, 429]
        assert [host.supervisor.telemetry.counters.refused["a", "concurrency"] for host in pair] == [1, 1]
        await control.signal("end0")
        assert await held[0] == 200
        await eventually(lambda: is_admitted(pair[1]))
        await control.signal("end1")
        assert await held[1] == 200


async def is_admitted(host: Host) -> bool:
    return await echo(host) == 200


async def test_slots_end_with_their_dispatch_or_their_host(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("shared.store", "auth.shared_limits"):
        monkeypatch.setattr(f"handler_host.{module}.SLOT_S", 0.6)
    install_puppet(tmp_path)
    given = options("concurrency = 1", server.url)
    dead = SharedStore(given["shared"], lambda result: None)
    assert await dead.acquire_slot("a", "slot-of-a-dead-host", 1)
    await dead.close()
    async with running(tmp_path, **given) as host:
        assert await echo(host) == 429
        await eventually(lambda: is_admitted(host))
        control = Control(tmp_path / "control")
        control.make("end")
        held = asyncio.ensure_future(hold(host, "end"))
        await until(lambda: host.supervisor.status("puppet").in_flight == 1)
        await asyncio.sleep(1.5)
        assert await echo(host) == 429
        await control.signal("end")
        assert await held == 200


async def test_a_fallback_does_not_wait_for_the_slot_before_it(tmp_path: Path, server: Server) -> None:
    install_puppet(tmp_path)
    install_plugin(tmp_path, "parrot", PARROT)
    given = options("concurrency = 1", server.url) | {"handlers": {"parrot": {"fallback": ("puppet",)}}}
    async with running(tmp_path, **given) as host:
        body = json.dumps({"messages": [{"role": "user", "content": "LIMIT"}]})
        headers = {"Authorization": "Bearer key-a"}
        _, content = await host.json("POST", "/v1/handlers/parrot/chat", data=body, headers=headers)
        assert "puppet: unknown_operation" in content["error"]["message"]  # the fallback ran
        assert not host.supervisor.telemetry.counters.refused


class SlowLine:
    """A connection to the server on which scripts wait while ``is_open`` is not set."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.is_open = asyncio.Event()
        self.is_open.set()
        self.waiting = 0

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        await asyncio.gather(self._copy(reader, server_writer), self._copy(server_reader, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if b"EVALSHA" in data:
                    self.waiting += 1
                    await self.is_open.wait()
                    self.waiting -= 1
                writer.write(data)
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def slow_limits(server: Server) -> AsyncIterator[tuple[SlowLine, SharedLimits, SharedStore, Consumer]]:
    """Count one slot of a consumer over a slow line."""
    line = SlowLine(server)
    async with await asyncio.start_server(line.forward, "127.0.0.1", 0) as listening:
        url = f"redis://:{PASSWORD}@127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        given = options("concurrency = 1", url, timeout=1.0)
        store = SharedStore(given["shared"], lambda result: None)
        limits = SharedLimits(store, is_open=False)
        consumer = Consumers(given["auth"], shared_slots=limits).find("key-a")
        assert consumer is not None
        (await limits.acquire(consumer, 1))()  # the server has the script, and the pool a connection
        try:
            yield line, limits, store, consumer
        finally:
            line.is_open.set()
            await limits.close()
            await store.close()


async def acquire_once_available(limits: SharedLimits, consumer: Consumer) -> Callable[[], None]:
    """Acquire the slot in the first decision of the server."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        with contextlib.suppress(LimitsUnavailable):
            return await limits.acquire(consumer, 1)
        await asyncio.sleep(0.01)
    raise AssertionError("the server is not available again")


async def has_slots(server: Server, count: int) -> bool:
    async with Redis.from_url(server.url) as client:
        return bool(await client.zcard("handler-host:{a}:slots") == count)


async def test_a_released_slot_is_available_in_the_same_turn(server: Server) -> None:
    async with slow_limits(server) as (_, limits, _, consumer):
        release = await limits.acquire(consumer, 1)
        for _ in range(20):
            release()
            release = await limits.acquire(consumer, 1)
        with pytest.raises(RateLimited):
            await limits.acquire(consumer, 1)
        release()


@pytest.mark.parametrize("ending", ["timeout", "cancellation"])
async def test_a_slot_that_the_server_grants_too_late_is_released(
    server: Server, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr("handler_host.shared.store.RETRY_AFTER_S", 0.05)
    async with slow_limits(server) as (line, limits, _, consumer):
        await eventually(lambda: has_slots(server, 0))
        line.is_open.clear()
        acquiring = asyncio.ensure_future(limits.acquire(consumer, 1))
        await until(lambda: line.waiting == 1)
        if ending == "timeout":
            with pytest.raises(LimitsUnavailable):
                await acquiring
        else:
            acquiring.cancel()
            await asyncio.wait([acquiring])
            await within(limits._tasks.join())  # the release overtakes the call that acquires the slot
        line.is_open.set()
        await eventually(lambda: has_slots(server, 1))
        (await acquire_once_available(limits, consumer))()


async def test_a_release_is_repeated_once_the_server_is_available(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handler_host.shared.store.RETRY_AFTER_S", 0.5)
    monkeypatch.setattr("handler_host.auth.shared_limits.SLOT_S", 3.0)
    async with slow_limits(server) as (line, limits, store, consumer):
        release = await limits.acquire(consumer, 1)
        line.is_open.clear()
        with pytest.raises(StoreUnavailable):
            await store.budget("a")
        release()
        line.is_open.set()
        assert await has_slots(server, 1)
        started_at = time.monotonic()
        await eventually(lambda: has_slots(server, 0))
        assert time.monotonic() - started_at < 10.0  # it did not expire, which takes 15 s


class AttemptCounts(RequestContext):
    """Context of a request that counts the attempts in flight."""

    in_flight = 0

    def start_attempt(self, handler: str) -> None:
        super().start_attempt(handler)
        self.in_flight += 1

    def end_attempt(self, first_chunk_s: float | None, failure: FailureText | None) -> None:
        super().end_attempt(first_chunk_s, failure)
        self.in_flight -= 1


async def test_an_attempt_ends_if_its_client_leaves_before_its_slot(tmp_path: Path, server: Server) -> None:
    install_puppet(tmp_path)
    async with running(tmp_path) as host, slow_limits(server) as (line, _, _, consumer):
        line.is_open.clear()
        dispatcher, context = Dispatcher(host.supervisor, 60.0), AttemptCounts("1")
        request = Request("puppet", "echo", b"{}", Caller("1", consumer, timings=context), dispatcher.new_deadline())
        dispatch = asyncio.ensure_future(dispatcher.run(request))
        await until(lambda: line.waiting == 1)
        assert context.in_flight == 1
        dispatch.cancel()
        await asyncio.wait([dispatch])
        assert context.in_flight == 0


@pytest.mark.parametrize("on_failure", ["open", "closed"])
async def test_dispatches_in_flight_while_the_server_is_away(tmp_path: Path, server: Server, on_failure: str) -> None:
    install_puppet(tmp_path)
    given = options("concurrency = 2", server.url, on_failure=on_failure)
    async with running(tmp_path, server={"instances": 2}, **given) as host:
        control = Control(tmp_path / "control")
        control.make("end")
        assert await echo(host) == 200
        server.stop()
        if on_failure == "closed":
            assert await echo(host) == 503
            return
        held = asyncio.ensure_future(hold(host, "end"))
        await until(lambda: host.supervisor.status("puppet").in_flight == 1)
        assert await echo(host) == 429  # this host's part: one of two
        await control.signal("end")
        assert [await held, await echo(host)] == [200, 200]


@pytest.mark.parametrize("on_failure", ["open", "closed"])
async def test_a_server_that_goes_is_told_once_and_comes_back(
    tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, on_failure: str
) -> None:
    monkeypatch.setattr("handler_host.shared.store.RETRY_AFTER_S", 0.05)
    given = options("requests_per_minute = 5", server.url, on_failure=on_failure)
    async with running(tmp_path, server={"instances": 2}, **given) as host:
        with caplog.at_level(logging.WARNING):
            assert await models(host) == 200
            server.stop()
            # Open: this host's part of the limit, from zero.
            expected = [200, 200, 429] if on_failure == "open" else [503, 503, 503]
            assert [await models(host) for _ in range(3)] == expected
            assert caplog.text.count("the shared server is not available") == 1
            assert ".; " not in caplog.text, "no full stop of the client library within the sentence"
            assert "; start it, or correct shared.url" in caplog.text
            assert PASSWORD not in caplog.text
            counters = host.supervisor.telemetry.counters
            assert counters.shared_calls["failed"] >= 1
            if on_failure == "closed":
                _, content = await host.json("GET", "/v1/models", headers={"Authorization": "Bearer key-a"})
                assert content["error"]["code"] == "limits_unavailable"
            server.start()
            await eventually(lambda: is_shared_again(host))
            assert caplog.text.count("responds again") == 1


async def test_a_server_that_hangs_delays_one_request_and_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(hang, "127.0.0.1", 0)
    url = f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        async with running(tmp_path, **options("requests_per_minute = 100", url, timeout=0.3)) as host:
            started_at = time.monotonic()
            assert set(await asyncio.gather(*(models(host) for _ in range(20)))) == {200}
            assert time.monotonic() - started_at < 5.0
            assert caplog.text.count("does not respond within 0.3 s (shared.timeout)") == 1
    finally:
        listening.close()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("redis://:wrong-password@127.0.0.1:{port}", "refuses the password or user; correct HANDLER_HOST_SHARED__URL"),
        ("redis://127.0.0.1:{port}", "refuses the password or user; correct HANDLER_HOST_SHARED__URL"),
        ("redis://:secret-word@no-such-host.invalid:6379", "unknown host name; correct shared.url"),
    ],
)
async def test_a_flaw_is_logged_once_and_the_host_serves(
    tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture, place: str, message: str
) -> None:
    install_puppet(tmp_path)
    url = place.format(port=server.port)
    async with running(tmp_path, **options("requests_per_minute = 100", url)) as host:
        assert [await echo(host) for _ in range(2)] == [200, 200]
    assert caplog.text.count(message) == 1
    assert "wrong-password" not in caplog.text
    assert "secret-word" not in caplog.text


@pytest.mark.parametrize(
    ("url", "level", "text"),
    [
        ("redis://:{password}@127.0.0.1:{port}", Level.OK, "127.0.0.1:{port}: "),
        (
            "redis://:wrong-password@127.0.0.1:{port}",
            Level.PROBLEM,
            "the password or user; correct HANDLER_HOST_",
        ),
        ("rediss://:{password}@127.0.0.1:{closed}", Level.PROBLEM, "start it, or correct shared.url"),
        ("redis://:{password}@127.0.0.1:{port}/99", Level.PROBLEM, "DB index is out of range; correct shared.url"),
    ],
    ids=["good", "wrong password", "away", "wrong database"],
)
def test_doctor_checks_the_server(
    server: Server, caplog: pytest.LogCaptureFixture, url: str, level: Level, text: str
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        values = {"password": PASSWORD, "port": server.port, "closed": closed.getsockname()[1]}
        shared = SharedConfig(url=url.format(**values), timeout=5.0)
        (finding,) = check_shared(Config(shared=shared))
    assert (finding.level, finding.place) == (level, "[shared]")
    assert text.format(**values) in finding.text
    assert "password@" not in finding.text
    assert caplog.text == "", "the finding is the only message"


async def test_a_server_that_is_not_redis() -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(respond, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        for scheme, text in (("redis", "Protocol Error"), ("rediss", "rediss:// has TLS, redis:// has not")):
            store = SharedStore(SharedConfig(url=f"{scheme}://127.0.0.1:{port}", timeout=5.0), lambda result: None)
            with pytest.raises(StoreUnavailable, match=text):
                await store.examine()
            await store.close()


def test_servers_by_their_versions() -> None:
    assert server_version({"redis_version": "7.0.15"}) == "Redis 7.0.15"
    assert server_version({"redis_version": "7.2.4", "valkey_version": "8.1.0"}) == "Valkey 8.1.0"
    with pytest.raises(StoreUnavailable, match=r"Redis 4.0.14 is too old; use Redis 5 or newer, or Valkey"):
        server_version({"redis_version": "4.0.14"})
    assert server_version({"redis_version": "unstable"}) == "Redis unstable"
    assert server_version({}) == "Redis of unknown version"


def footprints_of(file: Path) -> dict[str, dict[str, Any]]:
    return {entry["handler"]: entry for entry in json.loads(file.read_text())["footprints"]}


async def test_a_new_host_starts_with_the_footprints_of_others(tmp_path: Path, server: Server) -> None:
    install_puppet(tmp_path)
    first, second = tmp_path / "first" / "memory.json", tmp_path / "second" / "memory.json"
    given = options("", server.url)
    async with running(tmp_path, memory=MemoryConfig(state_file=first), **given) as host:
        assert await echo(host) == 200
        await until(lambda: bool(host.supervisor.status("puppet").learned_pss))
    learned = footprints_of(first)
    async with running(tmp_path, memory=MemoryConfig(state_file=second), **given) as host:
        assert footprints_of(second) == learned
        assert host.supervisor.status("puppet").learned_pss == learned["puppet"]["peak"]


async def test_the_password_may_come_from_a_file(tmp_path: Path, server: Server) -> None:
    file = tmp_path / "redis-password"
    url = f"redis://127.0.0.1:{server.port}"
    with pytest.raises(ConfigError, match=r"shared.password_file: .*: cannot be read"):
        create_app(Config(shared=SharedConfig(url=url, password_file=file)))
    file.write_text(f"{PASSWORD}\n")
    async with running(tmp_path, **options("requests_per_minute = 1", url, password_file=file)) as host:
        assert [await models(host) for _ in range(2)] == [200, 429]
        assert host.supervisor.telemetry.counters.shared_calls["failed"] == 0
