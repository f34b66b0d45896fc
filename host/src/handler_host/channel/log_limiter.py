"""Limit on the log records that one worker may send: the host does not rely on the worker to restrain itself."""

from __future__ import annotations

import msgspec

from handler_host.channel import frames

RECORDS_PER_S = 1000
BYTES_PER_S = 1024 * 1024
MAX_MESSAGE = 64 * 1024
"""Characters at which the message of a record is cut."""
LEVEL_WARNING = 30


class LogLimiter:
    """Count of the records of the current second."""

    def __init__(self) -> None:
        self._second = -1
        self._records_left = 0
        self._bytes_left = 0
        self._dropped = 0
        self._has_lazy_import_failure = False

    def admit(self, frame: frames.Log, now_s: float) -> list[frames.Log]:
        """Return the records to log: ``frame``, perhaps cut, unless it is dropped, after a note of dropped ones."""
        admitted: list[frames.Log] = []
        if int(now_s) != self._second:
            self._second, self._records_left, self._bytes_left = int(now_s), RECORDS_PER_S, BYTES_PER_S
            if self._dropped:
                text = f"{self._dropped} log records dropped: more than {RECORDS_PER_S} or 1 MB in a second"
                admitted.append(frames.Log(LEVEL_WARNING, "log", text))
                self._dropped = 0
        # The first failure makes the next activation eager: it is never dropped, and further ones add nothing.
        is_needed = frame.is_lazy_import_failure and not self._has_lazy_import_failure
        if (self._records_left <= 0 or self._bytes_left <= 0) and not is_needed:
            self._dropped += 1
            return admitted
        self._has_lazy_import_failure |= frame.is_lazy_import_failure
        if len(frame.message) > MAX_MESSAGE:
            frame = msgspec.structs.replace(frame, message=frame.message[:MAX_MESSAGE] + " … (cut)")
        self._records_left -= 1
        self._bytes_left -= len(frame.message) + len(frame.logger)
        return [*admitted, frame]

    @property
    def is_flooding(self) -> bool:
        """Whether the worker sends many more records than are logged."""
        return self._dropped >= RECORDS_PER_S or (self._dropped > 0 and self._bytes_left < -BYTES_PER_S)
