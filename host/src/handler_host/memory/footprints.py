"""Memory and durations learned of each version of a handler, kept in a small file from run to run.

The file holds hints only: a damaged file is logged once and then ignored. Each write
replaces it as a whole, so that a crash leaves the old file or the new one.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from handler_host._internal.atomic_write import replace_file
from handler_host.catalog.catalog_entry import CatalogEntry

log = logging.getLogger(__name__)

HandlerVersion = tuple[str, str, str]
"""Handler, distribution, version: what a footprint belongs to."""

FORMAT = 1
MAX_BYTES = 1024 * 1024
"""Longest file to read."""
MAX_RECORDS = 500
"""Versions to remember; the one unused for longest is forgotten first."""
STEP = 256 * 1024
"""Smallest growth of a peak, in bytes, that is worth a new file."""
TRIAL_WAIT_S = 60.0
"""Wait before a worker whose learned memory exceeds the limit is tried; it doubles with each failure."""
MAX_TRIAL_WAIT_S = 3600.0
RAISE = 1.25
"""Factor over the memory of a worker that was killed for memory: what the next worker reserves."""


class Footprint(msgspec.Struct):
    """Memory and durations of one version of a handler; sizes in bytes, durations in seconds."""

    handler: str
    distribution: str
    version: str
    peak: int = 0
    """The most that a worker used, its activation included: reserved before a fork."""
    steady: int = 0
    """The most that a ready worker used: what a ready worker counts with."""
    raised: int = 0
    """A guess at the need of a worker that was killed for memory; it fades when later workers need less."""
    activate_seconds: float | None = None
    stop_seconds: float | None = None
    out_of_memory: int = 0
    """Workers that were killed for memory."""


class _Trials(msgspec.Struct, frozen=True):
    wait_s: float
    since: float
    """On the monotonic clock."""


class FootprintFile(msgspec.Struct):
    """The content of the file."""

    format: int
    footprints: list[Footprint]


class FootprintStore:
    """The footprints and their file; ``path`` None keeps them in memory only.

    Call ``load`` and ``save``, which read and write the file, in a thread; everything
    else is for the event loop.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path if path != Path(os.devnull) else None
        self.has_changes = False
        """Whether the file is behind."""
        self._footprints: dict[HandlerVersion, Footprint] = {}
        self._trials: dict[HandlerVersion, _Trials] = {}
        """Trials of the versions whose learned memory exceeds the limit."""

    def forget(self, handler: str) -> int:
        """Discard what was learned of all versions of a handler; return their number."""
        versions = [version for version in self._footprints if version[0] == handler]
        for version in versions:
            self._discard(version)
        self.has_changes |= bool(versions)
        return len(versions)

    def seconds_until_trial(self, version: HandlerVersion, now: float, *, starts_wait: bool = True) -> float:
        """Return the seconds until a worker may be tried although its learned memory exceeds the limit; 0 for now.

        One spike must not lock a handler out. A version that has become ready on this machine is tried at once, any
        other one a while after its first refusal, and each trial that was killed for memory doubles the wait. ``now``
        is on the monotonic clock. A report, which refuses nothing, passes ``starts_wait`` False.
        """
        footprint = self._footprints.get(version)
        trials = self._trials.get(version)
        if trials is None:
            was_ready = footprint is not None and footprint.activate_seconds is not None and not footprint.out_of_memory
            trials = _Trials(0.0 if was_ready else TRIAL_WAIT_S, now)
            if starts_wait:
                self._trials[version] = trials
        return max(0.0, trials.since + trials.wait_s - now)

    def get(self, version: HandlerVersion) -> Footprint | None:
        """Return the footprint of a version of a handler, or None if it never ran here."""
        return self._footprints.get(version)

    def record_usage(self, version: HandlerVersion, *, peak: int, steady: int) -> None:
        """Learn from a measurement of a worker that is ready."""
        footprint = self._footprint(version)
        if peak > footprint.peak:
            self.has_changes |= peak > footprint.peak + STEP
            footprint.peak = peak
        if steady > footprint.steady:
            self.has_changes |= steady > footprint.steady + STEP
            footprint.steady = steady

    def record_activation(self, version: HandlerVersion, seconds: float) -> None:
        """Learn the duration of an activation, as a mean in which the latest counts most."""
        footprint = self._footprint(version)
        self.has_changes |= footprint.activate_seconds is None
        footprint.activate_seconds = _mean(footprint.activate_seconds, seconds)

    def record_stop(self, version: HandlerVersion, seconds: float) -> None:
        """Learn how long a worker took to exit."""
        footprint = self._footprint(version)
        footprint.stop_seconds = _mean(footprint.stop_seconds, seconds)

    def record_typical_exit(self, version: HandlerVersion, *, peak: int, steady: int) -> None:
        """Learn from a worker that ended in the normal way, so that a single spike fades."""
        footprint = self._footprint(version)
        footprint.peak = max(peak, (footprint.peak + peak) // 2)
        footprint.steady = max(steady, (footprint.steady + steady) // 2)
        footprint.raised = max(0, (footprint.raised + peak) // 2) if footprint.raised > footprint.peak + STEP else 0
        self._trials.pop(version, None)

    def record_oom_kill(self, version: HandlerVersion, size: int, at_most: int) -> None:
        """Learn that a worker of at least ``size`` bytes was killed for memory: the next one reserves more."""
        footprint = self._footprint(version)
        footprint.peak = footprint.peak or size
        footprint.raised = max(footprint.raised, min(int(max(footprint.peak, size) * RAISE), at_most))
        footprint.out_of_memory += 1
        self.has_changes = True
        trials = self._trials.get(version)
        if trials is not None:
            wait_s = min(max(2 * trials.wait_s, TRIAL_WAIT_S), MAX_TRIAL_WAIT_S)
            self._trials[version] = _Trials(wait_s, time.monotonic())

    def load(self) -> None:
        """Read the file; log once if it is invalid, and continue without it."""
        if self.path is None:
            return
        try:
            content = _read(self.path)
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            log.warning("%s is ignored: %s; the host learns the memory of handlers again", self.path, reason)
            return
        for footprint in content.footprints:
            self._footprints[footprint.handler, footprint.distribution, footprint.version] = footprint

    def snapshot(self) -> bytes:
        """Return the content of the file as it should be now."""
        self.has_changes = False
        while len(self._footprints) > MAX_RECORDS:
            self._discard(next(iter(self._footprints)))
        return msgspec.json.format(msgspec.json.encode(FootprintFile(FORMAT, list(self._footprints.values()))))

    def save(self, content: bytes) -> None:
        """Replace the file by ``content``; if that fails, log once and keep the footprints in memory only."""
        if self.path is None:
            return
        try:
            _check_regular(self.path)
            replace_file(self.path, content)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            log.warning("%s cannot be written: %s; footprints are lost when the host stops", self.path, reason)
            self.path = None

    def _discard(self, version: HandlerVersion) -> None:
        del self._footprints[version]
        self._trials.pop(version, None)

    def _footprint(self, version: HandlerVersion) -> Footprint:
        # Moved to the end: the first in the order is the one unused for longest.
        footprint = self._footprints.pop(version, None) or Footprint(*version)
        self._footprints[version] = footprint
        return footprint


def version_of(entry: CatalogEntry) -> HandlerVersion:
    """Return the key of the footprint of a handler's installed version."""
    return entry.name, entry.distribution, entry.version


def _mean(before: float | None, now: float) -> float:
    return now if before is None else (before + now) / 2


def _read(path: Path) -> FootprintFile:
    _check_regular(path)
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"longer than {MAX_BYTES // 1024} KiB")
    content = msgspec.json.decode(data, type=FootprintFile)
    if content.format != FORMAT:
        raise ValueError(f"unknown format {content.format}, expected {FORMAT}")
    for footprint in content.footprints:
        durations = (footprint.activate_seconds or 0.0, footprint.stop_seconds or 0.0)
        sizes = (footprint.peak, footprint.steady, footprint.raised)
        if not (all(0 <= size < 2**50 for size in sizes) and min(durations) >= 0):
            raise ValueError(f"impossible figures for {footprint.handler}")
    return content


def _check_regular(path: Path) -> None:
    """Raise ValueError for devices and directories: the file is replaced, not written to."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("not a regular file")
