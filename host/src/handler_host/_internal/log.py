"""One line for each event, on standard error: for people, or as JSON.

Events carry figures in ``extra={"fields": {...}}``. Secrets that were registered
with :func:`redact` are masked wherever they turn up: message, figures, traceback.
"""

from __future__ import annotations

import datetime
import logging
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from handler_host.config import LogConfig

HANDLERS = "handler."
"""What the names of the handlers' loggers begin with."""
MASK = "***"
MIN_SECRET = 6
"""Shorter secrets are not masked: they would be found everywhere."""
MIN_LINE = 16
"""Shorter lines of a secret of several lines are not masked by themselves."""

_secrets: tuple[str, ...] = ()


def redact(secrets: Iterable[str]) -> None:
    """Mask these values in every line from now on, also as they stand in JSON, in a ``repr`` and in a URL."""
    global _secrets
    from urllib.parse import quote  # the web server has it already

    forms = set(_secrets)
    for secret in secrets:
        lines = [line.strip() for line in secret.splitlines()]
        for text in (secret, secret.strip(), *(line for line in lines if len(line) >= MIN_LINE)):
            if len(text) >= MIN_SECRET:
                url = quote(text, safe="", errors="backslashreplace")
                forms |= {text, ascii(text)[1:-1], repr(text)[1:-1], as_json(text)[1:-1], url}
    # The longest first: a secret may contain another. Replaced as a whole: other threads log meanwhile.
    _secrets = tuple(sorted(forms, key=lambda form: (-len(form), form)))


def setup(config: LogConfig) -> None:
    """Send the log of this process to standard error, as configured."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if config.format == "json" else TextFormatter())
    logging.basicConfig(level=config.level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(HANDLERS):
            logging.getLogger(name).setLevel(logging.NOTSET)
    for name, level in config.levels.items():
        logging.getLogger(HANDLERS + name).setLevel(level.upper())


def level_of(config: LogConfig, handler: str) -> int:
    """Return the least level, as ``logging`` numbers them, at which a handler's records are logged."""
    return logging.getLevelNamesMapping()[config.levels.get(handler, config.level).upper()]


def without_secrets(text: str) -> str:
    """Return a text as the log would have it: for what a handler says to others than the log."""
    return _masked(text)


class JsonFormatter(logging.Formatter):
    """A JSON object a line: time, level, logger, event, and the event's figures."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; never raises, whatever the figures are."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _masked(_message(record)),
        }
        for name, value in _fields(record).items():
            # A worker's line names the logger in the worker; the rest of the frame is the host's own.
            line[f"field_{name}" if name in ("time", "level", "event", "traceback") else name] = plain(value)
        trace = _trace(self, record)
        if trace:
            line["traceback"] = _masked(trace)
        return as_json(line)


class TextFormatter(logging.Formatter):
    """A line for people; what has several lines is indented below it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; never raises, whatever the figures are."""
        first, *more = _masked(_message(record)).splitlines() or [""]
        figures = "".join(f" {name}={_shown(name, plain(value))}" for name, value in _fields(record).items())
        more += _masked(_trace(self, record)).splitlines()
        lines = [f"{_time(record)} {record.levelname:<7} {record.name} {first}{figures}", *more]
        # A terminal must not obey what a plugin or a client has sent.
        return "\n    ".join(_CONTROL.sub(lambda found: ascii(found[0])[1:-1], line) for line in lines)


_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_SIZES = frozenset(
    {"pss", "uss", "rss", "peak", "host", "fork_server", "limit", "usable", "used", "reserved"}
    | {"given_back", "host_bytes"}
)
"""The figures that are bytes."""


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001 - a wrong format or an odd argument must not lose the event
        text = record.msg if isinstance(record.msg, str) else f"<{type(record.msg).__name__}>"
        return f"{text} (arguments that cannot be shown: {type(error).__name__})"


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
    return "\n".join([*parts, *([record.stack_info] if record.stack_info else [])])


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields = getattr(record, "fields", None)
    return {_masked(str(name)): value for name, value in fields.items()} if isinstance(fields, dict) else {}


def _time(record: logging.LogRecord) -> str:
    moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _masked(text: str) -> str:
    for secret in _secrets:
        text = text.replace(secret, MASK)
    return text


def plain(value: object) -> Any:
    """Return what JSON knows, without secrets; what it does not know as text. Never raises."""
    try:
        return _plain(value, depth=4)
    except Exception as error:  # noqa: BLE001 - whatever the object does, the event is logged
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"


def _plain(value: object, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return int(value)
    if depth and isinstance(value, dict):
        return {_masked(str(name)): _plain(item, depth - 1) for name, item in value.items()}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth - 1) for item in value]
    return _masked(str(value))


def as_json(value: object) -> str:
    """Return JSON, whatever characters are in it."""
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        import json  # has an escape for half a character, which UTF-8 cannot carry

        return json.dumps(value)


def _shown(name: str, value: Any) -> str:
    if name in _SIZES and isinstance(value, int):
        return f"{value / 1024**2:.1f}MB"
    if name == "workers" and isinstance(value, dict) and all(isinstance(size, int) for size in value.values()):
        return ",".join(f"{worker}:{size / 1024**2:.1f}MB" for worker, size in value.items()) or "none"
    if isinstance(value, float):
        return f"{value:.3f}"
    text = value if isinstance(value, str) else as_json(value)
    return repr(text) if not text or any(character.isspace() for character in text) else text
