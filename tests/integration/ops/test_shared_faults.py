"""The shared server in states in which it responds but refuses, with the remedy of each, and after a lost memory."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from handler_host.config import SharedConfig
from handler_host.telemetry.usage import UsageRow
from tests.integration.ops.redis_server import PASSWORD, SERVER, Server, url_at
from tests.support import until

pytest.importorskip("redis", reason="redis-py is not installed (handler-host[redis])")
from redis.asyncio import Redis

from handler_host.shared.store import LIMITS, SharedStore, StoreUnavailable

pytestmark = pytest.mark.skipif(SERVER is None, reason="neither redis-server nor valkey-server is installed")

ONE_REQUEST = dict.fromkeys(LIMITS, 1)
A_THOUSAND = dict.fromkeys(LIMITS, 1000)
ROW = UsageRow("a", "handler", "model")


@pytest.fixture
async def store(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SharedStore]:
    """Return the counts of a host, which tries a server again at once."""
    monkeypatch.setattr("handler_host.shared.store.RETRY_AFTER_S", 0.0)
    store = SharedStore(SharedConfig(url=server.url, timeout=5.0), lambda result: None)
    yield store
    await store.close()


@pytest.fixture
async def operator(server: Server) -> AsyncIterator[Any]:
    """Return a client of the server that changes its state; redis-py declares no types for it."""
    async with Redis.from_url(server.url) as client:
        yield client


@pytest.mark.parametrize(
    ("fault", "recovery", "message"),
    [
        (
            "CONFIG SET maxmemory 1",
            "CONFIG SET maxmemory 0",
            "command not allowed when used memory > 'maxmemory'; raise its maxmemory, or set a maxmemory-policy that",
        ),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "read only replica; set shared.url to the primary"),
        (
            "CONFIG SET min-replicas-to-write 1",
            "CONFIG SET min-replicas-to-write 0",
            "NOREPLICAS Not enough good replicas to write; correct the server's configuration, or wait until",
        ),
        (
            "ACL SETUSER default -evalsha",
            "ACL SETUSER default +evalsha",
            "; allow its user all commands on keys with shared.prefix",
        ),
    ],
    ids=["out of memory", "replica", "without replicas", "permissions"],
)
async def test_a_refusing_server_is_named_once_until_it_recovers(
    store: SharedStore, operator: Any, caplog: pytest.LogCaptureFixture, fault: str, recovery: str, message: str
) -> None:
    await operator.execute_command(*fault.split())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await store.count_request("a", A_THOUSAND, uses_tokens=False)
        assert [message in record.getMessage() for record in caplog.records] == [True]
        await operator.execute_command(*recovery.split())
        assert await store.count_request("a", A_THOUSAND, uses_tokens=False) is None
    assert [record.getMessage().endswith("responds again; limits are shared") for record in caplog.records] == [
        False,
        True,
    ]


async def test_a_failover_behind_one_address_needs_no_restart(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address leads to the promoted replica; connections that are open lead to the old primary, a replica now."""
    monkeypatch.setattr("handler_host.shared.store.RETRY_AFTER_S", 0.0)
    (tmp_path / "replica").mkdir()
    replica = Server(tmp_path / "replica")
    replica.start()
    address = Address(server.port)
    async with await asyncio.start_server(address.connect, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        store = SharedStore(SharedConfig(url=url_at(port), timeout=5.0), lambda result: None)
        async with Redis.from_url(server.url) as old, Redis.from_url(replica.url) as new:
            await new.config_set("masterauth", PASSWORD)
            await new.replicaof("127.0.0.1", str(server.port))
            await asyncio.gather(*(store.budget("a") for _ in range(3)))  # connections, open together
            assert await store.count_request("a", ONE_REQUEST, uses_tokens=False) is None
            assert await old.wait(1, 20_000) == 1
            await new.replicaof("NO", "ONE")
            await old.replicaof("127.0.0.1", str(replica.port))
            address.port = replica.port
            store.add_usage(ROW, {"input": 5})
            with caplog.at_level(logging.WARNING):
                await until_written(store, 5)
                # The count of before the failover holds.
                assert await store.count_request("a", ONE_REQUEST, uses_tokens=False) is not None
        await store.close()
    replica.stop()
    first, last = (record.getMessage() for record in caplog.records)
    assert "read only replica; set shared.url to the primary" in first
    assert last.endswith("responds again; limits are shared")


class Address:
    """An address that leads new connections to ``port``, as the name or proxy of a primary does."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Join a connection to the port of this moment."""
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.port)
        await asyncio.gather(self._copy(reader, server_writer), self._copy(server_reader, writer))

    @staticmethod
    async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()


async def test_a_server_may_lose_its_scripts_or_its_data(store: SharedStore, operator: Any) -> None:
    assert await store.count_request("a", ONE_REQUEST, uses_tokens=False) is None
    await operator.script_flush()  # as after a failover
    assert await store.count_request("a", ONE_REQUEST, uses_tokens=False) is not None
    store.add_usage(ROW, {"input": 5})
    await until_written(store, 5)
    await operator.script_flush()
    store.add_usage(ROW, {"input": 2})
    await until_written(store, 7)
    await operator.flushall()
    assert await store.count_request("a", ONE_REQUEST, uses_tokens=False) is None


async def test_tokens_are_counted_once_although_another_count_fails(
    store: SharedStore, operator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await operator.set("handler-host:{a}:tokens_per_minute", "no table")
    failures = 0

    def count_result(result: str) -> None:
        nonlocal failures
        failures += result == "failed"

    monkeypatch.setattr(store, "_count_result", count_result)
    store.add_usage(ROW, {"input": 5})
    await until(lambda: failures >= 3)
    await operator.delete("handler-host:{a}:tokens_per_minute")
    await until_written(store, 5)


async def until_written(store: SharedStore, tokens: int) -> None:
    """Wait until a consumer's tokens are in the server, in its budget and in the usage."""
    async with asyncio.timeout(20):
        while await store.budget("a") != (tokens, tokens):  # noqa: ASYNC110 - no event reports it
            await asyncio.sleep(0.02)
    assert [row.input for row in await store.usage()] == [tokens]
