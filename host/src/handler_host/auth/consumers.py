"""Consumers: their keys, rights and limits, from the configuration and the consumers file.

While requests arrive the file is checked once a second, so a key that is revoked there is refused without a restart.
An invalid file changes nothing, and the log says why.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from handler_host.auth.consumer_file import Entry, parse_consumers, read_consumers
from handler_host.auth.rate_limiter import DAY_S, RateLimiter
from handler_host.config import AuthConfig
from handler_host.plugin.errors import ConfigError, RateLimited

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 1.0
"""Time between two checks of the file."""


_REFUSALS = {
    "requests_per_minute": ("rate", "send {} requests per minute"),
    "tokens_per_minute": ("tokens", "use {} tokens per minute"),
    "tokens_per_day": ("tokens", "use {} tokens per day (UTC)"),
    "concurrency": ("concurrency", "have {} dispatches in flight"),
}
"""Reason in the metrics and meaning of each limit."""


class Refusal(NamedTuple):
    """Refusal of a request by a limit."""

    reason: str
    """In the metrics."""
    error: RateLimited


class SharedSlots(Protocol):
    """Slots for dispatches in flight that several hosts share."""

    async def acquire(self, consumer: Consumer, limit: int) -> Callable[[], None]:
        """Acquire a slot; return the function that releases it. Raises ``RateLimited`` and ``LimitsUnavailable``."""


class Consumer:
    """Consumer: name, rights, limits, and their use at the moment; ``instances`` hosts have a part of the limits."""

    def __init__(
        self,
        name: str,
        entry: Entry,
        limiter: RateLimiter,
        instances: int,
        shared_slots: SharedSlots | None,
    ) -> None:
        self.name = name
        self.entry = entry
        self._limiter = limiter
        self._instances = instances
        self._shared_slots = shared_slots

    @property
    def unsupported(self) -> str | None:
        """How chats of this key treat unsupported fields; None: as the handler's configuration says."""
        return self.entry.unsupported

    @property
    def has_token_limit(self) -> bool:
        """Whether the tokens of the consumer are limited."""
        return self.entry.tokens_per_minute is not None or self.entry.tokens_per_day is not None

    def allows(self, handler: str) -> bool:
        """Return whether the consumer may use this handler."""
        return self.entry.handlers is None or handler in self.entry.handlers

    def inactive_reason(self, now: datetime.datetime | None = None) -> str | None:
        """Return ``revoked`` or ``expired`` if the key is no longer valid, else None."""
        if self.entry.revoked is not None:
            return "revoked"
        expires = self.entry.expires
        if expires is not None and (now or datetime.datetime.now(datetime.UTC)) >= expires:
            return "expired"
        return None

    def check(self, *, uses_tokens: bool) -> Refusal | None:
        """Count a request and return None, or return why it is refused.

        ``uses_tokens``: a request that has a response with tokens; it is refused once a token limit is reached.
        """
        limit = self._part(self.entry.requests_per_minute)
        if limit is not None and (wait_s := self._limiter.count_request(limit)):
            return self.refusal("requests_per_minute", wait_s, is_part=True)
        if not uses_tokens:
            return None
        limit = self._part(self.entry.tokens_per_minute)
        if limit is not None:
            wait_s = self._limiter.tokens.seconds_until_below(limit, time.monotonic())
            if wait_s:
                return self.refusal("tokens_per_minute", wait_s, is_part=True)
        limit = self._part(self.entry.tokens_per_day)
        if limit is not None and self._limiter.day_tokens() >= limit:
            return self.refusal("tokens_per_day", DAY_S - time.time() % DAY_S, is_part=True)
        return None

    def refusal(self, limit: str, wait_s: float, *, is_part: bool = False) -> Refusal:
        """Return the refusal by a limit; ``is_part``: this host allows its part only."""
        reason, meaning = _REFUSALS[limit]
        message = f"the key {self.name!r} may {meaning.format(getattr(self.entry, limit))}"
        if is_part and self._instances > 1:
            message += f", {self._part(getattr(self.entry, limit))} of them on each of {self._instances} hosts"
        return Refusal(reason, RateLimited(message, retry_after=wait_s))

    @property
    def minute_tokens(self) -> int:
        """Tokens of the last minute."""
        return self._limiter.tokens.total(time.monotonic())

    @property
    def day_tokens(self) -> int:
        """Tokens since midnight in UTC."""
        return self._limiter.day_tokens()

    def count_tokens(self, tokens: int) -> None:
        """Count the input and output tokens of a response."""
        self._limiter.count_tokens(tokens)

    async def acquire(self) -> Callable[[], None]:
        """Count a dispatch that starts; return the function that counts its end.

        Raises ``RateLimited``, and ``LimitsUnavailable`` if the shared server must decide and does not respond.
        """
        limit = self.entry.concurrency
        if limit is not None and self._shared_slots is not None:
            return await self._shared_slots.acquire(self, limit)
        return self.acquire_own()

    def acquire_own(self) -> Callable[[], None]:
        """Count a dispatch on this host alone, which allows its part of the limit; raises ``RateLimited``."""
        limit = self._part(self.entry.concurrency)
        if limit is not None and self._limiter.in_flight >= limit:
            raise self.refusal("concurrency", 1.0, is_part=True).error
        self._limiter.in_flight += 1
        return self._release_own

    def _release_own(self) -> None:
        self._limiter.in_flight -= 1

    def _part(self, limit: int | None) -> int | None:
        """Return the part of a limit that this host allows."""
        return limit if limit is None else max(1, limit // self._instances)


class Consumers:
    """All consumers. Raises :class:`ConfigError` if the file is missing or invalid at the start.

    ``instances`` is ``server.instances``; ``shared_slots`` counts the dispatches in flight of several hosts.
    """

    def __init__(self, config: AuthConfig, instances: int = 1, shared_slots: SharedSlots | None = None) -> None:
        self._instances = instances
        self._shared_slots = shared_slots
        self._file: Path | None = config.consumers_file
        self._configured = {f"key-{number}": Entry(hash=key) for number, key in enumerate(config.api_keys, 1)}
        if config.consumers is not None:
            self._configured |= parse_consumers(config.consumers, "HANDLER_HOST_CONSUMERS")
        self.is_open = not self._configured and self._file is None
        """Whether no consumer is configured, so that everybody on this machine is one."""
        self.limiters: dict[str, RateLimiter] = {}
        """Counts by the name of the consumer."""
        self._consumers: dict[bytes, Consumer] = {}
        self._file_version: tuple[int, int, int] | None = None
        self._checked_at = time.monotonic()
        self._checking: asyncio.Task[None] | None = None
        if self._file is not None:
            self._file_version = _version_of(self._file)
            self._replace(read_consumers(self._file))
        else:
            self._replace({})
        self.may_end = self._file is not None or any(c.entry.expires is not None for c in self._consumers.values())
        """Whether a key can end while the host runs: by a change of the file, or by its date."""

    @property
    def may_have_changed(self) -> bool:
        """Whether the last check of the file is too long ago."""
        return self._file is not None and time.monotonic() - self._checked_at >= CHECK_INTERVAL_S

    def is_active(self, consumer: Consumer) -> bool:
        """Return whether the key of a consumer is still valid."""
        current = self._consumers.get(bytes.fromhex(consumer.entry.hash.removeprefix("sha256:")))
        return current is not None and current.inactive_reason() is None

    def find(self, key: str) -> Consumer | None:
        """Return the consumer of a key, or None.

        A look-up by digest reveals nothing by its time: a client cannot choose the digest of a key that it guesses.
        """
        return self._consumers.get(hashlib.sha256(key.encode(errors="surrogateescape")).digest())

    def with_token_limits(self) -> list[Consumer]:
        """Return the consumers with a limit on tokens, by name."""
        consumers = {consumer.name: consumer for consumer in self._consumers.values()}
        return [consumers[name] for name in sorted(consumers) if consumers[name].has_token_limit]

    async def refresh(self) -> None:
        """Read the file again if it has changed."""
        if self._file is None:
            return
        if self._checking is None:
            self._checked_at = time.monotonic()
            self._checking = asyncio.create_task(self._check(self._file), name="check of the consumers file")
        await asyncio.shield(self._checking)

    async def refresh_if_due(self) -> None:
        """Read the file again if it has changed, at most once in each interval."""
        if self.may_have_changed:
            await self.refresh()

    async def _check(self, file: Path) -> None:
        try:
            version = await asyncio.to_thread(_version_of, file)
            if version == self._file_version:
                return
            self._file_version = version
            entries = await asyncio.to_thread(read_consumers, file)
            self._replace(entries)
            log.info("consumers reloaded", extra={"fields": {"file": str(file), "consumers": len(entries)}})
        except ConfigError as error:
            log.error("consumers not reloaded: %s", error.message)
        finally:
            self._checking = None

    def _replace(self, entries: dict[str, Entry]) -> None:
        """Replace the consumers of the file; those that stay keep their counts."""
        consumers = {**entries, **self._configured}
        self.limiters = {name: self.limiters.get(name) or RateLimiter() for name in consumers}
        self._consumers = {
            bytes.fromhex(digest.removeprefix("sha256:")): Consumer(
                name, rights, self.limiters[name], self._instances, self._shared_slots
            )
            for name, entry in consumers.items()
            for digest, rights in entry.digests()
        }


def _version_of(file: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
