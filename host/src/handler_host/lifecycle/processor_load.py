"""Processor time: whether the workers of a handler are bound by it, and whether the machine has some left.

The workers report theirs on the channel (``handler_host.channel.frames.Pong``), so that it
is known on every system and of every worker. What the machine has left comes from
``/proc`` and the control group; where the system has neither, what the workers use is
compared with the number of processors.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from handler_host.channel.pongs import used_share
from handler_host.memory.cgroups import control_groups_v2
from handler_host.memory.procfs import read_lines

if TYPE_CHECKING:
    from handler_host.channel.frames import Pong
    from handler_host.workers.worker import Worker

BOUND_SHARE = 0.8
"""Share of a processor from which a worker counts as bound by it."""
MIN_IDLE = 0.5
"""Processors that must be idle for one more worker: with less, it takes its time from the present ones."""


class ProcessorTimes(msgspec.Struct, frozen=True):
    """Processor times of the machine and of the host's control group, in seconds."""

    at_s: float
    """On the monotonic clock."""
    idle_s: float | None
    """Idle time of all processors together; None if the system does not report it."""
    group_s: float | None = None
    """Time that the control group has used; None without a quota."""
    quota: float | None = None
    """Processors that the control group may use."""


async def should_grow(workers: Sequence[Worker], seconds: float) -> bool:
    """Return whether all workers are bound by the processor for ``seconds``, and one more would find a processor."""
    before = await _read_pongs(workers)
    machine = await asyncio.to_thread(read_processor_times)
    await asyncio.sleep(seconds)
    after = await _read_pongs(workers)
    if not before or None in before or None in after:
        return False  # a worker has left: the next measurement is of those that remain
    shares = [used_share(first, last) for first, last in zip(before, after, strict=True) if first and last]
    if min(shares) < BOUND_SHARE:
        return False
    if workers[0].place is not None:
        return True  # on other machines the reservation finds a processor
    return idle_processors(machine, await asyncio.to_thread(read_processor_times), sum(shares)) >= MIN_IDLE


async def _read_pongs(workers: Sequence[Worker]) -> list[Pong | None]:
    channels = [worker.channel for worker in workers if worker.channel is not None]
    return list(await asyncio.gather(*(channel.ping() for channel in channels)))


def idle_processors(first: ProcessorTimes, last: ProcessorTimes, used: float) -> float:
    """Return how many processors were idle; ``used`` are those that the workers used."""
    seconds = max(last.at_s - first.at_s, 0.001)
    if first.idle_s is None or last.idle_s is None:
        idle = (os.cpu_count() or 1) - used
    else:
        idle = (last.idle_s - first.idle_s) / seconds
    if last.quota is not None and first.group_s is not None and last.group_s is not None:
        idle = min(idle, last.quota - (last.group_s - first.group_s) / seconds)
    return idle


def read_processor_times(root: Path = Path("/")) -> ProcessorTimes:
    """Return the processor times now; ``root`` is where ``proc`` and ``sys`` are."""
    return ProcessorTimes(time.monotonic(), _read_idle(root), *_read_quota(root))


def _read_idle(root: Path) -> float | None:
    """Return the idle seconds of the processors that the host may use, as `taskset` or a container has set them."""
    idle_s: dict[str, float] = {}
    for line in read_lines(root / "proc/stat"):
        fields = line.split()
        if line.startswith("cpu") and len(fields) > 5:
            # Idle, and idle while a disk is waited for.
            idle_s[fields[0]] = (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")
    own = [f"cpu{number}" for number in os.sched_getaffinity(0)]
    if idle_s.keys() >= set(own):
        return sum(idle_s[name] for name in own)
    return idle_s.get("cpu")  # a container with a /proc/stat of its own (lxcfs) numbers its processors from 0


def _read_quota(root: Path) -> tuple[float | None, float | None]:
    """Return the seconds used and the processors allowed in the group with the least quota; None without a quota.

    The groups are the host's own (v2) and all that contain it: a quota of a service or of a pod is above its group.
    """
    quotas = [(quota, group) for group in control_groups_v2(root) if (quota := _quota_of(group)) is not None]
    if not quotas:
        return None, None
    quota, group = min(quotas)
    usage = [line.split()[1] for line in read_lines(group / "cpu.stat") if line.startswith("usage_usec ")]
    return (int(usage[0]) / 1e6 if usage else None), quota


def _quota_of(group: Path) -> float | None:
    limit = " ".join(read_lines(group / "cpu.max")).split()
    if len(limit) != 2 or not all(word.isdecimal() for word in limit) or limit[1] == "0":
        return None
    return int(limit[0]) / int(limit[1])
