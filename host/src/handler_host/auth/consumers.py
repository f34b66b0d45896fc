"""The consumers: their keys, what each may ask for, and how much; as the configuration and the consumers' file have it.

The file is looked at once a second while requests come: a key that is revoked there
is refused without a restart. A file that has become wrong changes nothing, and is told.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import hmac
import logging
import os
import time
from pathlib import Path

from handler_host.auth.consumer_file import Entry, parse_consumers
from handler_host.auth.rate_limiter import RateLimiter
from handler_host.config import AuthConfig
from handler_host.plugin.errors import ConfigError, RateLimited

log = logging.getLogger(__name__)

LOOK_INTERVAL = 1.0
"""Seconds between two looks at the file."""


class Consumer:
    """Who has sent a key: what it may, and what it does now."""

    def __init__(self, name: str, entry: Entry, usage: RateLimiter) -> None:
        self.name = name
        self.entry = entry
        self._usage = usage

    def allows(self, handler: str) -> bool:
        """Tell whether the consumer may ask for this handler."""
        return self.entry.handlers is None or handler in self.entry.handlers

    def inactive_reason(self, now: datetime.datetime | None = None) -> str | None:
        """Return why the key is of no use (any more), or None."""
        if self.entry.revoked is not None:
            return "revoked"
        expires = self.entry.expires
        if expires is not None and (now or datetime.datetime.now(datetime.UTC)) >= expires:
            return "expired"
        return None

    def request(self) -> None:
        """Count a request; raises ``RateLimited``."""
        most = self.entry.requests_per_minute
        if most is None:
            return
        wait = self._usage.request(most)
        if wait:
            raise RateLimited(f"the key {self.name!r} may send {most} requests a minute", retry_after=wait)

    def begin(self) -> None:
        """Count a dispatch that begins; raises ``RateLimited``. Who gets through has to :meth:`end` it."""
        most = self.entry.concurrency
        if most is not None and self._usage.under_way >= most:
            raise RateLimited(f"the key {self.name!r} may have {most} dispatches under way", retry_after=1.0)
        self._usage.under_way += 1

    def end(self) -> None:
        """Count a dispatch that has ended."""
        self._usage.under_way -= 1


class Consumers:
    """All of them. Raises :class:`ConfigError` where the file cannot be read at the start."""

    def __init__(self, config: AuthConfig) -> None:
        self._file: Path | None = config.consumers_file
        self._fixed = {f"key-{number}": Entry(hash=key) for number, key in enumerate(config.api_keys, 1)}
        if config.consumers is not None:
            self._fixed |= parse_consumers(config.consumers, "HANDLER_HOST_CONSUMERS")
        self._usage: dict[str, RateLimiter] = {}
        self._consumers: list[tuple[bytes, Consumer]] = []
        self._stamp: tuple[int, int, int] | None = None
        self._looked_at = time.monotonic()
        self._looking: asyncio.Task[None] | None = None
        if self._file is not None:
            self._stamp = _stamp_of(self._file)
            self._take(_read(self._file))
        else:
            self._take({})

    @property
    def open(self) -> bool:
        """Whether no consumer is configured, so that everybody on this machine is one."""
        return not self._fixed and self._file is None

    def find(self, key: str) -> Consumer | None:
        """Return whose key it is; compared with all of them, in constant time."""
        digest = hashlib.sha256(key.encode(errors="surrogateescape")).digest()
        found = None
        for known, consumer in self._consumers:
            if hmac.compare_digest(digest, known):
                found = consumer
        return found

    async def refresh(self, *, now: bool = False) -> None:
        """Read the file anew if it has changed; ``now``: also if it was looked at within the last second."""
        if self._file is None or (not now and time.monotonic() - self._looked_at < LOOK_INTERVAL):
            return
        if self._looking is None:
            self._looked_at = time.monotonic()
            self._looking = asyncio.create_task(self._look(self._file), name="look at the consumers' file")
        await asyncio.shield(self._looking)

    async def _look(self, file: Path) -> None:
        try:
            stamp = await asyncio.to_thread(_stamp_of, file)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            entries = await asyncio.to_thread(_read, file)
            self._take(entries)
            log.info("consumers read anew", extra={"fields": {"file": str(file), "consumers": len(entries)}})
        except ConfigError as error:
            log.error("the consumers stay as they were: %s", error.message)
        finally:
            self._looking = None

    def _take(self, entries: dict[str, Entry]) -> None:
        """Let these be the consumers, beside those of the configuration; who is counted stays counted."""
        every = {**entries, **self._fixed}
        self._usage = {name: self._usage.get(name) or RateLimiter() for name in every}
        self._consumers = [
            (bytes.fromhex(entry.hash.removeprefix("sha256:")), Consumer(name, entry, self._usage[name]))
            for name, entry in every.items()
        ]


def _stamp_of(file: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(file: Path) -> dict[str, Entry]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"auth.consumers_file: {file}: cannot be read: {error}") from None
    return parse_consumers(text, str(file))
