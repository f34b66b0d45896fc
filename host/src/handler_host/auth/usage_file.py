"""File of token usage and token budgets, so that a restart resets no budget.

It is replaced as a whole, a few seconds after a change and at the end; a host that is killed loses those seconds.
Only one host may use it: the first one that locks ``usage.lock`` beside it.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from handler_host._internal.atomic_write import replace_file
from handler_host._internal.small_file import read_small_file
from handler_host.auth.consumers import Consumers
from handler_host.auth.rate_limiter import DAY_S
from handler_host.config import MemoryConfig, kept_state_file
from handler_host.telemetry.usage import TokenUsage, UsageRow

log = logging.getLogger(__name__)

FORMAT = 1
SAVE_INTERVAL_S = 5.0
"""Time from a change until it is in the file."""
MAX_TOKENS = 2**60
"""Largest number of tokens that a file may have."""
MAX_FILE_BYTES = 4 * 1024 * 1024


class Budget(msgspec.Struct):
    """Tokens of one consumer that count against its limits."""

    consumer: str
    day_tokens: int
    """Since midnight in UTC, on the day of the file."""
    minute: list[tuple[float, int]]
    """Age in seconds, when the file was written, and tokens."""


class _File(msgspec.Struct):
    format: int
    since: float
    saved_at: float
    """Seconds since 1970, as ``since``."""
    usage: list[UsageRow]
    budgets: list[Budget]


class UsageFile:
    """Keeps usage and budgets in a file; ``path`` None keeps them in memory only."""

    def __init__(self, path: Path | None, usage: TokenUsage, consumers: Consumers) -> None:
        self._path = path
        self._usage = usage
        self._consumers = consumers
        self._timer: asyncio.TimerHandle | None = None
        self._saving: asyncio.Task[None] | None = None
        self._has_changes = False
        self._lock: int | None = None

    async def start(self) -> None:
        """Read the file, and write it after each change from now on."""
        if self._path is None:
            return
        try:
            self._lock = await asyncio.to_thread(_lock, self._path.with_suffix(".lock"))
        except BlockingIOError:
            log.warning(
                "%s is in use by another host; token budgets and usage of this host end with it, and learned memory is "
                "overwritten; set a data_dir of its own",
                self._path.parent,
            )
            return
        except OSError:
            pass  # a directory that cannot be written is reported with the first change
        try:
            content = await asyncio.to_thread(_read, self._path)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            log.warning("%s is ignored: %s; token usage and token budgets start from zero", self._path, reason)
        else:
            self._restore(content)
        self._usage.listeners.append(self._on_change)

    async def close(self) -> None:
        """Write what is not in the file yet."""
        self._stop_listening()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._saving is not None:
            await self._saving
        if self._has_changes:
            await self._save()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _stop_listening(self) -> None:
        if self._on_change in self._usage.listeners:
            self._usage.listeners.remove(self._on_change)

    def _on_change(self, row: UsageRow, tokens: Mapping[str, int]) -> None:
        self._has_changes = True
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SAVE_INTERVAL_S, self._start_saving)

    def _start_saving(self) -> None:
        self._timer = None
        if self._saving is not None and not self._saving.done():
            # A slow disk: the older content must not be the last one that is written.
            self._timer = asyncio.get_running_loop().call_later(SAVE_INTERVAL_S, self._start_saving)
            return
        self._saving = asyncio.create_task(self._save(), name="save of the token usage")

    async def _save(self) -> None:
        self._has_changes = False
        assert self._path is not None, "without a file nothing calls this"
        try:
            await asyncio.to_thread(replace_file, self._path, self._content())
        except OSError as error:
            log.warning("%s cannot be written: %s; token usage is lost when the host stops", self._path, error.strerror)
            self._stop_listening()

    def _content(self) -> bytes:
        now = time.monotonic()
        budgets = [
            Budget(name, limiter.day_tokens(), list(limiter.tokens.entries(now)))
            for name, limiter in self._consumers.limiters.items()
            if limiter.day_tokens() or limiter.tokens.total(now)
        ]
        return msgspec.json.encode(_File(FORMAT, self._usage.since, time.time(), self._usage.rows(), budgets))

    def _restore(self, content: _File) -> None:
        self._usage.restore(content.since, content.usage)
        now, wall_clock = time.monotonic(), time.time()
        elapsed_s = max(0.0, wall_clock - content.saved_at)
        for budget in content.budgets:
            limiter = self._consumers.limiters.get(budget.consumer)
            if limiter is not None:
                limiter.tokens.restore(((age_s + elapsed_s, tokens) for age_s, tokens in budget.minute), now)
                if content.saved_at // DAY_S == wall_clock // DAY_S:
                    limiter.restore_day(wall_clock, budget.day_tokens)


def usage_path(config: MemoryConfig) -> Path | None:
    """Return the path of the file: beside the file of the learned memory; None if the host keeps no state."""
    state_file = kept_state_file(config)
    return state_file.with_name("usage.json") if state_file is not None else None


def _lock(path: Path) -> int:
    """Return the descriptor that holds the lock; raises ``BlockingIOError`` if another host has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _read(path: Path) -> _File:
    content = msgspec.json.decode(read_small_file(path, MAX_FILE_BYTES), type=_File)
    if content.format != FORMAT:
        raise ValueError(f"unknown format {content.format}, expected {FORMAT}")
    counts = [tokens for budget in content.budgets for _, tokens in budget.minute]
    counts += [budget.day_tokens for budget in content.budgets]
    for row in content.usage:
        counts += (row.input, row.cached, row.cache_write, row.output, row.reasoning)
    ages = [age_s for budget in content.budgets for age_s, _ in budget.minute]
    if not all(0 <= count <= MAX_TOKENS for count in counts) or min((content.since, *ages)) < 0:
        raise ValueError("impossible figures")
    return content
