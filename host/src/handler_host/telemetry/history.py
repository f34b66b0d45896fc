"""Memory over the last hour: a bounded ring with one sample for each measurement that differs from the last."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import msgspec

from handler_host.memory.sampler import Reading

SPAN_S = 3600.0
"""Seconds that the history covers."""
MAX_SAMPLES = 1800
"""Samples in the ring; beyond, every second sample of the older half is dropped."""
MIN_CHANGE_BYTES = 128 * 1024
"""Change of one process that is worth a sample."""
MAX_GAP_S = 60.0
"""Seconds after which every measurement becomes a sample."""


class Sample(NamedTuple):
    """One sample; ``data`` is its JSON: number, time, host, fork server, workers by handler."""

    number: int
    at: float
    """Seconds on the monotonic clock: the time of day may jump."""
    data: bytes


class History:
    """The ring of samples, oldest first."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque()
        self._number = 0
        self._shape: list[tuple[str, int]] = []
        self._skipped: tuple[float, Reading] | None = None

    def add(self, reading: Reading, now: float | None = None) -> None:
        """Keep a measurement unless it equals the last one."""
        at = reading.at if now is None else now
        shape = _shape(reading)
        if self._samples and at - self._samples[-1].at < MAX_GAP_S and _is_same(shape, self._shape):
            self._skipped = at, reading
            return
        if self._skipped is not None:
            # Otherwise the chart would draw a step as a slope from the last sample.
            self._keep(*self._skipped)
            self._skipped = None
        self._keep(at, reading)
        self._shape = shape

    def since(self, number: int) -> list[bytes]:
        """Return the samples after this number, and the newest measurement."""
        samples = [sample.data for sample in self._samples if sample.number > number]
        if self._skipped is not None:
            at, reading = self._skipped
            samples.append(_encoded(self._number, at, reading))
        return samples

    def __len__(self) -> int:
        return len(self._samples)

    def _keep(self, at: float, reading: Reading) -> None:
        self._number += 1
        samples = self._samples
        while samples and at - samples[0].at > SPAN_S:
            samples.popleft()
        if len(samples) >= MAX_SAMPLES:
            kept = list(samples)
            middle = len(kept) // 2
            self._samples = samples = deque(kept[:middle:2] + kept[middle:])
        samples.append(Sample(self._number, at, _encoded(self._number, at, reading)))


def _shape(reading: Reading) -> list[tuple[str, int]]:
    """Return the processes and their sizes."""
    processes = [("", reading.host), ("/", reading.fork_server or 0)]
    return processes + [(f"{name}/{generation}", memory.pss) for (name, generation), memory in reading.workers.items()]


def _is_same(now: list[tuple[str, int]], before: list[tuple[str, int]]) -> bool:
    return len(now) == len(before) and all(
        name == old_name and abs(size - old_size) < MIN_CHANGE_BYTES
        for (name, size), (old_name, old_size) in zip(now, before, strict=True)
    )


def _encoded(number: int, at: float, reading: Reading) -> bytes:
    content = (number, round(at, 2), reading.host, reading.fork_server, reading.by_handler())
    return msgspec.json.encode(content)
