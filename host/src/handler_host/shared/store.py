"""The server that several hosts share. Imported only if ``shared.url`` is set.

Every call is bounded by ``shared.timeout``. After a failure the server is left alone for a second, so that a server
that hangs delays one request in a second and not all of them.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

import msgspec

from handler_host._internal import log as logs
from handler_host.config import SharedConfig
from handler_host.config.shared import SCHEMES
from handler_host.config.text_file import read_text
from handler_host.plugin.errors import ConfigError
from handler_host.shared import scripts
from handler_host.telemetry.usage import UsageRow, billed

try:
    from redis import exceptions
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
except ImportError as error:
    raise ConfigError(f"shared.url: redis-py is not installed ({error}); pip install 'handler-host[redis]'") from error

log = logging.getLogger(__name__)

LIMITS = ("requests_per_minute", "tokens_per_minute", "tokens_per_day")
"""The limits of a consumer that hosts count together, in the order of the script."""
TOKEN_LIMITS = LIMITS[1:]
SLOT_S = 15.0
"""Time after which a slot for a dispatch expires, unless its host keeps it: a host that dies holds none for longer."""
RETRY_AFTER_S = 1.0
"""Time after a failure in which the server is not tried again."""
MAX_CONNECTIONS = 32
MIN_VERSION = 5
"""Oldest Redis in which a script may write after it has read the clock. Valkey continues Redis 7."""
KINDS = ("input", "cached", "cache_write", "output", "reasoning")
_RECOVERY = "correct the server's configuration, or wait until it has recovered"
REMEDIES_BY_TEXT = {
    "used memory > 'maxmemory'": "raise its maxmemory, or set a maxmemory-policy that evicts",
    "read only replica": "set shared.url to the primary",
    "NOREPLICAS": _RECOVERY,
    "MISCONF": _RECOVERY,
    "BUSY": _RECOVERY,
}
"""What to do about an error with this text; before Redis 7 it is part of a longer one if a script fails."""
REMEDIES: Mapping[type[Exception], str] = {
    exceptions.MasterDownError: "start its primary",
    exceptions.BusyLoadingError: "wait until it has loaded its data",
    exceptions.NoPermissionError: "allow its user all commands on keys with shared.prefix",
    exceptions.MovedError: "set shared.url to a server that is not a node of a cluster",
    exceptions.ClusterDownError: "set shared.url to a server that is not a node of a cluster",
    exceptions.ConnectionError: "start it, or correct shared.url",
}
"""What to do about other errors; the first class that fits counts."""

T = TypeVar("T")


class StoreUnavailable(Exception):
    """The server does not respond, or refuses; it was logged once. The text has the reason and the remedy."""


class StoreNotTried(StoreUnavailable):
    """The server failed less than ``RETRY_AFTER_S`` ago: the call was not sent."""


class ReachedLimit(NamedTuple):
    """Limit of a consumer that a request would exceed."""

    name: str
    """One of :data:`LIMITS`."""
    wait_s: float


class SharedStore:
    """Counts in one server; ``count_result`` is called with ``ok`` or ``failed`` after each call of it."""

    def __init__(self, config: SharedConfig, count_result: Callable[[str], None]) -> None:
        assert config.url is not None, "a store needs a URL"
        self._timeout_s = config.timeout
        self._prefix = config.prefix
        self._count_result = count_result
        self._when_away = (
            "limits hold on this host alone"
            if config.on_failure == "open"
            else "requests of consumers with limits are refused"
        )
        parts = urlsplit(config.url)
        self.address = parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"
        self._client = _connect(config, parts.scheme, config.url)
        register = self._client.register_script
        self._count_request = register(scripts.COUNT_REQUEST)
        self._add_tokens = register(scripts.ADD_TOKENS)
        self._read_tokens = register(scripts.READ_TOKENS)
        self._acquire_slot = register(scripts.ACQUIRE_SLOT)
        self._keep_slots = register(scripts.KEEP_SLOTS)
        self._count_wrong_key = register(scripts.COUNT_WRONG_KEY)
        self._keep_larger = register(scripts.KEEP_LARGER)
        self._retry_at: float | None = None
        """Time of the next try after a failure; None while the server responds."""
        self._pending: Counter[str] = Counter()
        """Tokens that the server does not have yet, by field of the usage."""
        self._pending_budgets: Counter[str] = Counter()
        """The same, by consumer."""
        self._flushing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Try the server; a failure is logged, and tried again with the next request."""
        try:
            await self._call(self._client.ping)
        except StoreUnavailable:
            return
        log.info("shared limits", extra={"fields": {"server": self.address}})

    async def examine(self) -> str:
        """Run a script that reads, as `doctor` does; return name and version of the server.

        Raises ``StoreUnavailable``, also if the server is too old for the scripts.
        """
        await self.budget("doctor")
        info = await self._call(lambda: self._client.info("server"))
        return server_version(info)

    async def close(self) -> None:
        """Write the last tokens, if the server responds, and close the connections."""
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.gather(self._flushing, return_exceptions=True)
        try:
            if self._pending or self._pending_budgets:
                await self._call(self._flush)
        except StoreUnavailable:
            log.warning("the last tokens are not in %s", self.address)
        await self._client.aclose()

    async def count_request(
        self, consumer: str, limits: Mapping[str, int | None], *, uses_tokens: bool
    ) -> ReachedLimit | None:
        """Count a request of a consumer, or return the limit that it has reached; raises ``StoreUnavailable``."""
        keys = self._keys(consumer, LIMITS)
        arguments = [limits[limit] or 0 for limit in LIMITS] + [int(uses_tokens)]
        number, wait_ms = await self._call(lambda: self._count_request(keys, arguments))
        return ReachedLimit(LIMITS[number - 1], wait_ms / 1000) if number else None

    async def acquire_slot(self, consumer: str, slot: str, limit: int, released: Iterable[str] = ()) -> bool:
        """Acquire one of a consumer's slots for dispatches in flight; return False if it has none left.

        The slots in ``released`` are released first. Raises ``StoreUnavailable``.
        """
        keys = self._keys(consumer, ("slots",))
        arguments: list[str | int] = [slot, limit, int(SLOT_S * 1000), *released]
        return bool(await self._call(lambda: self._acquire_slot(keys, arguments)))

    async def keep_slots(self, consumer: str, slots: Iterable[str]) -> None:
        """Keep slots of a consumer for another ``SLOT_S``; raises ``StoreUnavailable``."""
        keys = self._keys(consumer, ("slots",))
        await self._call(lambda: self._keep_slots(keys, [int(SLOT_S * 1000), *slots]))

    async def release_slots(self, consumer: str, slots: Iterable[str]) -> None:
        """Release slots of a consumer, at least one; raises ``StoreUnavailable``."""
        (key,) = self._keys(consumer, ("slots",))
        await self._call(lambda: self._client.zrem(key, *slots))

    async def count_wrong_key(
        self, realm: str, address: str, *, free: int, first_s: float, longest_s: float, forget_s: float
    ) -> float:
        """Count a wrong key of an address; return the seconds to delay its response. Raises ``StoreUnavailable``."""
        key = self._wrong_keys(realm, address)
        arguments = [free, int(first_s * 1000), int(longest_s * 1000), int(forget_s)]
        delay_ms: int = await self._call(lambda: self._count_wrong_key([key], arguments))
        return delay_ms / 1000

    async def forget_wrong_keys(self, realm: str, address: str) -> None:
        """Forget the wrong keys of an address; raises ``StoreUnavailable``."""
        await self._call(lambda: self._client.delete(self._wrong_keys(realm, address)))

    def add_usage(self, row: UsageRow, tokens: Mapping[str, int]) -> None:
        """Add the tokens of a response soon, after a failure when the server is back.

        A write that the server has done although its response was lost is repeated: usage is never too low.
        """
        for kind in KINDS:
            if count := tokens.get(kind, 0):
                self._pending[_field(row, kind)] += count
        if row.consumer:
            self._pending_budgets[row.consumer] += billed(tokens)
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._keep_flushing(), name="tokens to the shared server")

    async def usage(self) -> list[UsageRow]:
        """Return the tokens of all hosts; raises ``StoreUnavailable``."""
        rows: dict[tuple[str, str, str], UsageRow] = {}
        fields = await self._call(lambda: self._client.hgetall(f"{self._prefix}:usage"))
        for field, count in fields.items():
            consumer, handler, model, kind = msgspec.json.decode(field, type=tuple[str, str, str, str])
            rows.setdefault((consumer, handler, model), UsageRow(consumer, handler, model)).add({kind: int(count)})
        return [rows[key] for key in sorted(rows)]

    async def budget(self, consumer: str) -> tuple[int, int]:
        """Return a consumer's tokens of the last minute and of the day; raises ``StoreUnavailable``."""
        keys = self._keys(consumer, TOKEN_LIMITS)
        minute, day = await self._call(lambda: self._read_tokens(keys))
        return minute, day

    async def footprints(self) -> Sequence[bytes | str]:
        """Return the learned memory of all hosts, each one JSON; raises ``StoreUnavailable``."""
        return list(await self._call(lambda: self._client.hvals(f"{self._prefix}:footprints")))

    async def add_footprints(self, footprints: Mapping[str, bytes]) -> None:
        """Add learned memory, by version of a handler; the larger peak stays. Raises ``StoreUnavailable``."""
        arguments = [part for pair in footprints.items() for part in pair]
        await self._call(lambda: self._keep_larger([f"{self._prefix}:footprints"], arguments))

    def _keys(self, consumer: str, limits: Sequence[str]) -> list[str]:
        # The braces keep the keys of one script on one node of a cluster.
        return [f"{self._prefix}:{{{consumer}}}:{limit}" for limit in limits]

    def _wrong_keys(self, realm: str, address: str) -> str:
        return f"{self._prefix}:wrong-keys:{realm}:{address}"

    async def _keep_flushing(self) -> None:
        while self._pending or self._pending_budgets:
            try:
                await self._call(self._flush)
            except StoreUnavailable:
                await asyncio.sleep(RETRY_AFTER_S)

    async def _flush(self) -> None:
        pending, budgets = self._pending, self._pending_budgets
        self._pending, self._pending_budgets = Counter(), Counter()
        try:
            async with self._client.pipeline(transaction=False) as pipeline:
                for field, count in pending.items():
                    pipeline.hincrby(f"{self._prefix}:usage", field, count)
                for consumer, count in budgets.items():
                    await self._add_tokens(self._keys(consumer, TOKEN_LIMITS), [count], client=pipeline)
                results = await pipeline.execute(raise_on_error=False)
        except BaseException:
            self._pending += pending
            self._pending_budgets += budgets
            raise
        of_usage, of_budgets = results[: len(pending)], results[len(pending) :]
        # What the server has done is not repeated: a command that fails each time would count the others each time.
        failed = [error for error in results if isinstance(error, Exception)]
        self._pending += _refused(pending, of_usage)
        self._pending_budgets += _refused(budgets, of_budgets)
        if failed:
            raise failed[0]

    async def _call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run ``work`` within the time limit; raises ``StoreUnavailable``."""
        is_retry = self._retry_at is not None
        if self._retry_at is not None:
            now = time.monotonic()
            if now < self._retry_at:
                raise StoreNotTried
            self._retry_at = now + RETRY_AFTER_S  # concurrent requests do not wait for this try
        try:
            async with asyncio.timeout(self._timeout_s):
                if is_retry:  # after a failover idle connections lead to a replica, and new ones to the primary
                    await self._client.connection_pool.disconnect(inuse_connections=False)
                result = await work()
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            self._count_result("failed")
            reason = self._describe(error)
            if self._retry_at is None:
                log.warning("%s: %s; %s", self.address, reason, self._when_away)
            self._retry_at = time.monotonic() + RETRY_AFTER_S
            raise StoreUnavailable(reason) from None
        self._count_result("ok")
        # Not by a call that was in flight when another one failed: a slow server would fill the log.
        if is_retry and self._retry_at is not None:
            self._retry_at = None
            log.warning("%s responds again; limits are shared", self.address)
        return result

    def _describe(self, error: Exception) -> str:
        """Return the reason and the remedy; the URL, which may have a password, is not part of it."""
        text = str(error).partition(" script: ")[0].rstrip(".")
        if isinstance(error, exceptions.AuthenticationError):
            return (
                "the shared server refuses the password or user; correct HANDLER_HOST_SHARED__URL "
                "or shared.password_file"
            )
        causes: list[BaseException | None] = [error, error.__cause__, error.__context__]
        if any(isinstance(cause, socket.gaierror) for cause in causes):
            return "unknown host name; correct shared.url"
        if isinstance(error, TimeoutError | exceptions.TimeoutError):
            return f"the shared server does not respond within {self._timeout_s:g} s (shared.timeout)"
        if any(isinstance(cause, ssl.SSLError) for cause in causes):
            return f"TLS with the shared server fails: {text}; correct shared.url (rediss:// has TLS, redis:// has not)"
        by_text = (fix for part, fix in REMEDIES_BY_TEXT.items() if part in text)
        by_class = (fix for kind, fix in REMEDIES.items() if isinstance(error, kind))
        remedy = next(itertools.chain(by_text, by_class), "correct shared.url")
        return f"the shared server is not available: {text or type(error).__name__}; {remedy}"


def server_version(info: Mapping[str, Any]) -> str:
    """Return name and version of a server from its ``INFO``; raises ``StoreUnavailable`` if it is too old."""
    version = str(info.get("redis_version", "of unknown version"))
    major = version.partition(".")[0]
    if major.isdecimal() and int(major) < MIN_VERSION:
        raise StoreUnavailable(f"Redis {version} is too old; use Redis {MIN_VERSION} or newer, or Valkey")
    return f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {version}"


def _connect(config: SharedConfig, scheme: str, url: str) -> Redis:
    options: dict[str, Any] = {}
    if config.password_file is not None:
        place = f"shared.password_file: {config.password_file}"
        options["password"] = read_text(config.password_file, place, "correct the path or its rights").strip()
    in_url = urlsplit(url).password or ""
    logs.register_secrets(secret for secret in (options.get("password"), in_url, unquote(in_url)) if secret)
    pool = BlockingConnectionPool.from_url(
        SCHEMES[scheme] + url.removeprefix(scheme),
        max_connections=MAX_CONNECTIONS,
        timeout=config.timeout,
        socket_timeout=config.timeout,
        socket_connect_timeout=config.timeout,
        retry=Retry(NoBackoff(), 0),
        **options,
    )
    return Redis.from_pool(pool)


def _refused(counts: Counter[str], results: Sequence[Any]) -> Counter[str]:
    """Return the counts whose commands have failed."""
    pairs = zip(counts.items(), results, strict=True)
    return Counter({key: count for (key, count), result in pairs if isinstance(result, Exception)})


def _field(row: UsageRow, kind: str) -> str:
    return msgspec.json.encode((row.consumer, row.handler, row.model, kind)).decode()
