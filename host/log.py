"""One line for each event, on standard error: for people, or as JSON.

Events carry figures in ``extra={"fields": {...}}``. Secrets that were registered
with :func:`redact` are masked wherever they turn up.
"""

from __future__ import annotations

import datetime
import logging
import sys
from collections.abc import Iterable
from typing import Any

import msgspec

from host.config import LogConfig

MASK = "***"
MIN_SECRET = 6
"""Shorter secrets are not masked: they would be found everywhere."""

_secrets: set[str] = set()


def redact(secrets: Iterable[str]) -> None:
    """Mask these values in every line from now on."""
    _secrets.update(secret for secret in secrets if len(secret) >= MIN_SECRET)


def setup(config: LogConfig) -> None:
    """Send the log of this process to standard error, as configured."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if config.format == "json" else TextFormatter())
    logging.basicConfig(level=config.level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}


def _time(record: logging.LogRecord) -> str:
    moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _masked(text: str) -> str:
    for secret in _secrets:
        text = text.replace(secret, MASK)
    return text


class JsonFormatter(logging.Formatter):
    """A JSON object a line: time, level, logger, event, and the event's figures."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; never raises for a figure that is no JSON."""
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return _masked(msgspec.json.encode(line, enc_hook=repr).decode())


class TextFormatter(logging.Formatter):
    """A line for people; what has several lines is indented below it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        first, *more = record.getMessage().splitlines() or [""]
        figures = "".join(f" {name}={_shown(name, value)}" for name, value in _fields(record).items())
        line = f"{_time(record)} {record.levelname:<7} {record.name} {first}{figures}"
        if record.exc_info:
            more += self.formatException(record.exc_info).splitlines()
        return _masked("\n    ".join([line, *more]))


_SIZES = frozenset({"pss", "host", "fork_server", "limit", "bytes_given_back"})


def _shown(name: str, value: object) -> str:
    if name in _SIZES and isinstance(value, int):
        return f"{value / 1024**2:.1f}MB"
    if name == "workers" and isinstance(value, dict):
        return ",".join(f"{worker}:{size / 1024**2:.1f}MB" for worker, size in value.items()) or "none"
    if isinstance(value, float):
        return f"{value:.3f}"
    text = str(value)
    return repr(text) if not text or any(character.isspace() for character in text) else text
