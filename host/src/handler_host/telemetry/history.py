"""Memory over the last hour: one sample for each measurement that brought something new, in a bounded ring."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import msgspec

from handler_host.memory.sampler import Reading

SPAN = 3600.0
"""Seconds that are kept."""
MOST = 1800
"""Samples that are kept; when there are more, every second one of the older half goes."""
NEWS = 128 * 1024
"""Bytes by which a process has to change for a sample to be kept."""
LONGEST_GAP = 60.0
"""Seconds after which a sample is kept in any case."""


class Sample(NamedTuple):
    """One of them; ``data`` is it as JSON: number, time, host, fork server, workers by handler."""

    number: int
    at: float
    """On the monotonic clock: the time of day may jump."""
    data: bytes


class History:
    """The samples, oldest first."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque()
        self._number = 0
        self._shape: list[tuple[str, int]] = []
        self._skipped: tuple[float, Reading] | None = None

    def add(self, reading: Reading, now: float | None = None) -> None:
        """Keep a measurement, unless it says what the last one said."""
        at = reading.at if now is None else now
        shape = _shape(reading)
        if self._samples and at - self._samples[-1].at < LONGEST_GAP and _same(shape, self._shape):
            self._skipped = at, reading
            return
        if self._skipped is not None:
            # So that a step is a step, and no slope from the last sample that was kept.
            self._keep(*self._skipped)
            self._skipped = None
        self._keep(at, reading)
        self._shape = shape

    def since(self, number: int) -> list[bytes]:
        """Return the samples that came after the one of this number, and with them the newest measurement."""
        found = [sample.data for sample in self._samples if sample.number > number]
        if self._skipped is not None:
            at, reading = self._skipped
            found.append(_encoded(self._number, at, reading))
        return found

    def __len__(self) -> int:
        return len(self._samples)

    def _keep(self, at: float, reading: Reading) -> None:
        self._number += 1
        samples = self._samples
        while samples and at - samples[0].at > SPAN:
            samples.popleft()
        if len(samples) >= MOST:
            kept = list(samples)
            middle = len(kept) // 2
            self._samples = samples = deque(kept[:middle:2] + kept[middle:])
        samples.append(Sample(self._number, at, _encoded(self._number, at, reading)))


def _shape(reading: Reading) -> list[tuple[str, int]]:
    """Return the processes with their sizes."""
    found = [("", reading.host), ("/", reading.fork_server or 0)]
    return found + [(f"{name}/{generation}", memory.pss) for (name, generation), memory in reading.workers.items()]


def _same(one: list[tuple[str, int]], other: list[tuple[str, int]]) -> bool:
    return len(one) == len(other) and all(
        name == known and abs(size - before) < NEWS for (name, size), (known, before) in zip(one, other, strict=True)
    )


def _encoded(number: int, at: float, reading: Reading) -> bytes:
    workers: dict[str, Any] = {}
    for (name, _), memory in reading.workers.items():
        workers[name] = workers.get(name, 0) + memory.pss
    return msgspec.json.encode((number, round(at, 2), reading.host, reading.fork_server, workers))
