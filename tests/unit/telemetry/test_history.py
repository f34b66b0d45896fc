"""The memory history keeps changes, covers an hour and stays bounded."""

from __future__ import annotations

import itertools
import json
from typing import Any

from handler_host.memory.cgroups import MemoryLimit
from handler_host.memory.pressure import KernelView
from handler_host.memory.procfs import Memory
from handler_host.memory.sampler import Reading
from handler_host.telemetry.history import MAX_SAMPLES, History


def reading(host: int, **workers: int) -> Reading:
    return Reading(
        host=host,
        fork_server=None,
        workers={(name, 1): Memory(size, size, size) for name, size in workers.items()},
        measure="pss",
        limit=MemoryLimit(2**29, 2**28, "configured"),
        kernel=KernelView(),
        droppable=0,
        external_usage=0,
        at=0.0,
        cost=0.0,
    )


def samples(history: History, since: int = 0) -> list[list[Any]]:
    return [json.loads(sample) for sample in history.since(since)]


class TestHistory:
    def test_keeps_steps_and_drops_equal_samples(self) -> None:
        history = History()
        for second in range(10):
            history.add(reading(10_000_000), now=float(second))
        assert [sample[:2] for sample in samples(history)] == [[1, 0.0], [1, 9.0]]
        history.add(reading(10_000_000, a=5_000_000), now=10.0)
        assert [(at, workers) for _, at, _, _, workers in samples(history)] == [
            (0.0, {}),
            (9.0, {}),
            (10.0, {"a": 5_000_000}),
        ]
        assert [sample[0] for sample in samples(history, since=2)] == [3]

    def test_covers_the_last_hour_within_its_bound(self) -> None:
        history = History()
        for number in range(5 * MAX_SAMPLES):
            history.add(reading(10_000_000 + number * 200_000), now=float(number))
        kept = samples(history)
        assert len(history) <= MAX_SAMPLES
        assert kept[-1][1] == 5 * MAX_SAMPLES - 1
        assert 3400 <= kept[-1][1] - kept[0][1] <= 3601
        gaps = [later[1] - earlier[1] for earlier, later in itertools.pairwise(kept)]
        assert max(gaps) < 60
        assert max(gaps[-MAX_SAMPLES // 2 :]) == 1
