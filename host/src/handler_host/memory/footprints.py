"""What was learned of each handler's memory and pace, by version; kept in a small file from run to run.

What the file says are hints: whatever is wrong with it is told once, and then
ignored. It is written whole, beside its old self, and put in its place in one step.
"""

from __future__ import annotations

import logging
import os
import stat
from contextlib import suppress
from pathlib import Path

import msgspec

from handler_host._internal.atomic_write import replace_file

log = logging.getLogger(__name__)

Subject = tuple[str, str, str]
"""Handler, distribution, version."""

FORMAT = 1
MAX_BYTES = 1024 * 1024
"""Longest file that is read."""
MAX_RECORDS = 500
"""Versions that are remembered; the longest not seen is forgotten first."""
STEP = 256 * 1024
"""A peak that has grown by less is not worth a new file, in bytes."""
RAISE = 1.25
"""By how much a footprint is raised above what a worker had when it was killed for memory."""


class Footprint(msgspec.Struct):
    """What one version of a handler was seen to take; sizes in bytes, durations in seconds."""

    handler: str
    distribution: str
    version: str
    peak: int = 0
    """The most that a worker took, its activation included: reserved before a fork."""
    steady: int = 0
    """The most that a ready worker took: what it counts with while it is there."""
    raised: int = 0
    """What a worker may need that was killed for memory: a guess, which fades when the next ones need less."""
    activate_seconds: float | None = None
    stop_seconds: float | None = None
    out_of_memory: int = 0
    """How often a worker was killed for memory."""


class _File(msgspec.Struct):
    format: int
    footprints: list[Footprint]


class FootprintStore:
    """The footprints, and their file; ``path`` None keeps them in memory only.

    ``load`` and ``save`` read and write the file, and belong into a thread; everything
    else is for the event loop.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path if path != Path(os.devnull) else None
        self.changed = False
        """There is something that the file does not say."""
        self._footprints: dict[Subject, Footprint] = {}

    def of(self, subject: Subject) -> Footprint | None:
        """Return what is known of a version of a handler, or None."""
        return self._footprints.get(subject)

    def seen(self, subject: Subject, *, peak: int, steady: int | None) -> None:
        """Learn from a measurement of a worker; ``steady`` is None until it is ready."""
        found = self._footprint(subject)
        if peak > found.peak:
            self.changed |= peak > found.peak + STEP
            found.peak = peak
        if steady is not None and steady > found.steady:
            self.changed |= steady > found.steady + STEP
            found.steady = steady

    def activated(self, subject: Subject, seconds: float) -> None:
        """Learn how long an activation took: the mean, the latest counting most."""
        found = self._footprint(subject)
        self.changed |= found.activate_seconds is None
        found.activate_seconds = _mean(found.activate_seconds, seconds)

    def stopped(self, subject: Subject, seconds: float) -> None:
        """Learn how long a worker took to go."""
        found = self._footprint(subject)
        found.stop_seconds = _mean(found.stop_seconds, seconds)

    def ended(self, subject: Subject, *, peak: int, steady: int) -> None:
        """Learn from a worker that has ended in the normal way: what was a single spike fades."""
        found = self._footprint(subject)
        found.peak = max(peak, (found.peak + peak) // 2)
        found.steady = max(steady, (found.steady + steady) // 2)
        found.raised = max(0, (found.raised + peak) // 2) if found.raised > found.peak + STEP else 0

    def killed(self, subject: Subject, size: int, at_most: int) -> None:
        """Learn that a worker of at least ``size`` bytes was killed for memory: the next one gets more room."""
        found = self._footprint(subject)
        found.raised = max(found.raised, min(int(max(found.peak, size) * RAISE), at_most))
        found.out_of_memory += 1
        self.changed = True

    def load(self) -> None:
        """Read the file; tell once what is wrong with it, and go on without."""
        if self.path is None:
            return
        try:
            found = _read(self.path)
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            log.warning("%s is ignored: %s; what handlers take is learned anew", self.path, reason)
            return
        for footprint in found.footprints:
            self._footprints[footprint.handler, footprint.distribution, footprint.version] = footprint

    def snapshot(self) -> bytes:
        """Return what the file has to say now."""
        self.changed = False
        while len(self._footprints) > MAX_RECORDS:
            del self._footprints[next(iter(self._footprints))]
        return msgspec.json.format(msgspec.json.encode(_File(FORMAT, list(self._footprints.values()))))

    def save(self, content: bytes) -> None:
        """Put ``content`` in the place of the file; tell once if that cannot be, and try no more."""
        if self.path is None:
            return
        try:
            _check_regular(self.path)
            replace_file(self.path, content)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            log.warning("%s cannot be written: %s; what is learned lasts as long as the host", self.path, reason)
            self.path = None

    def _footprint(self, subject: Subject) -> Footprint:
        # Taken out and put back: the first in the order is the longest not seen.
        found = self._footprints.pop(subject, None) or Footprint(*subject)
        self._footprints[subject] = found
        return found


def _mean(before: float | None, now: float) -> float:
    return now if before is None else (before + now) / 2


def _read(path: Path) -> _File:
    _check_regular(path)
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"it is longer than {MAX_BYTES // 1024} KiB")
    found = msgspec.json.decode(data, type=_File)
    if found.format != FORMAT:
        raise ValueError(f"it is of format {found.format}, where {FORMAT} is known")
    for footprint in found.footprints:
        durations = (footprint.activate_seconds or 0.0, footprint.stop_seconds or 0.0)
        sizes = (footprint.peak, footprint.steady, footprint.raised)
        if not (all(0 <= size < 2**50 for size in sizes) and min(durations) >= 0):
            raise ValueError(f"no worker of {footprint.handler} can have taken that")
    return found


def _check_regular(path: Path) -> None:
    """Keep away from devices and directories: this file is replaced, not written to."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("it is no regular file")
