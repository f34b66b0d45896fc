"""Log of the process: one line per event on standard error, as text or as JSON.

Events carry their figures in ``extra={"fields": {...}}``. Secrets that were registered with
:func:`register_secrets` are masked everywhere in a line: message, figures, traceback.
"""

from __future__ import annotations

import datetime
import functools
import logging
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import msgspec

from handler_host._internal.units import SIZE_FIGURES

HANDLERS = "handler."
"""Prefix of the loggers of the handlers."""
MASK = "***"
MIN_SECRET = 6
"""Shorter secrets, in characters, are not masked: they would match parts of ordinary words."""
MIN_LINE = 16
"""Shorter lines of a secret with several lines, in characters, are not masked on their own."""

_secrets: tuple[str, ...] = ()


class LogSettings(Protocol):
    """The settings that :func:`setup` needs: the section ``[log]`` of the configuration has them."""

    @property
    def format(self) -> str:
        """``text`` or ``json``."""

    @property
    def level(self) -> str:
        """Name of the lowest level that is logged: ``info``."""

    @property
    def levels(self) -> Mapping[str, str]:
        """Level of each handler that has its own, by the handler's name."""


def register_secrets(secrets: Iterable[str]) -> None:
    """Mask these values in every line from now on, also in their forms in JSON, in a ``repr`` and in a URL."""
    global _secrets
    from urllib.parse import quote  # the web server has imported it already

    forms = set(_secrets)
    for secret in secrets:
        lines = [line.strip() for line in secret.splitlines()]
        for text in (secret, secret.strip(), *(line for line in lines if len(line) >= MIN_LINE)):
            if len(text) >= MIN_SECRET:
                url = quote(text, safe="", errors="backslashreplace")
                forms |= {text, ascii(text)[1:-1], repr(text)[1:-1], to_json(text)[1:-1], url}
    # Longest first, as a secret may contain another. One assignment, as other threads log at the same time.
    _secrets = tuple(sorted(forms, key=lambda form: (-len(form), form)))


def mask_secrets(text: str) -> str:
    """Return ``text`` with every registered secret replaced by ``***``: for texts that leave the host."""
    for secret in _secrets:
        text = text.replace(secret, MASK)
    return text


def setup(settings: LogSettings) -> None:
    """Send the log of this process to standard error, with the format and levels of ``settings``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(HANDLERS):
            logging.getLogger(name).setLevel(logging.NOTSET)
    for name, level in settings.levels.items():
        logging.getLogger(HANDLERS + name).setLevel(level.upper())


def level_of(settings: LogSettings, handler: str) -> int:
    """Return the lowest level, as a number of ``logging``, at which the records of ``handler`` are logged."""
    return logging.getLevelNamesMapping()[settings.levels.get(handler, settings.level).upper()]


class JsonFormatter(logging.Formatter):
    """Formatter that writes one JSON object per line: time, level, logger, event, and the figures of the event."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; never raises, whatever the figures are."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": mask_secrets(_message(record)),
        }
        for name, value in _fields(record).items():
            # A field may replace `logger` (records of a worker name the logger inside it), but no other key.
            line[f"field_{name}" if name in ("time", "level", "event", "traceback") else name] = value
        trace = _trace(self, record)
        if trace:
            line["traceback"] = mask_secrets(trace)
        return to_json(line)


_TEXT = "_handler_host_text"
"""Attribute of a record with its line."""


class TextFormatter(logging.Formatter):
    """Formatter that writes one line for people; the further lines of a text are indented below it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; never raises, whatever the figures are."""
        # Kept on the record, as `logging` keeps a traceback: a worker's line goes to the log and to the dashboard.
        text: str | None = record.__dict__.get(_TEXT)
        if text is None:
            text = record.__dict__[_TEXT] = self._format(record)
        return text

    def _format(self, record: logging.LogRecord) -> str:
        start, figures = f"{_time(record)} {record.levelname:<7} {record.name}", _figures(_fields(record))
        message, trace = mask_secrets(_message(record)), mask_secrets(_trace(self, record))
        line = f"{start} {message}{figures}"
        if not trace and line.isprintable():  # no end of a line is printable
            return line
        first, *more = message.splitlines() or [""]
        # A terminal must not run control sequences that a plugin or a client has sent.
        return "\n    ".join(
            line if line.isprintable() else _CONTROL.sub(lambda match: ascii(match[0])[1:-1], line)
            for line in [f"{start} {first}{figures}", *more, *trace.splitlines()]
        )


_SPACE = re.compile(r"\s")
# Also those that change the direction of what follows: a terminal would show the parts of a line in another order.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001 - a wrong format or a broken argument must not lose the event
        text = record.msg if isinstance(record.msg, str) else f"<{type(record.msg).__name__}>"
        return f"{text} (arguments cannot be formatted: {type(error).__name__})"


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if not (record.exc_info or record.stack_info):
        return ""
    parts = [formatter.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
    return "\n".join([*parts, *([record.stack_info] if record.stack_info else [])])


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    """Return the figures of an event in types that JSON has, without secrets."""
    fields = getattr(record, "fields", None)
    if not isinstance(fields, dict):
        return {}
    if _are_plain(fields):
        return fields
    return {mask_secrets(str(name)): to_plain(value) for name, value in fields.items()}


def _are_plain(fields: dict[Any, Any]) -> bool:
    """Return whether names and values have the usual types and no secret, as those of a request's line."""
    texts: list[str] = []
    for name, value in fields.items():
        kind = type(value)
        if kind is str:
            texts.append(value)
        elif not (kind is float or value is None or (kind is int and abs(value) < 2**63)):
            return False
        if type(name) is not str:
            return False
        texts.append(name)
    text = "\n".join(texts)
    return mask_secrets(text) == text


def _time(record: logging.LogRecord) -> str:
    second, microsecond = divmod(round(record.created * 1e6), 1_000_000)
    return f"{_start_of(second)}.{microsecond // 1000:03}Z"


@functools.lru_cache(maxsize=2)
def _start_of(second: int) -> str:
    """Return a second as ISO 8601: many lines are of the same second."""
    return datetime.datetime.fromtimestamp(second, datetime.UTC).isoformat()[:19]


def format_time(moment: datetime.datetime) -> str:
    """Return a time in UTC as ISO 8601 with milliseconds: ``2026-01-31T12:00:00.000Z``."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def to_plain(value: object) -> Any:
    """Convert ``value`` to types that JSON has, without secrets; other types become text. Never raises."""
    try:
        return _to_plain(value, depth=4)
    except Exception as error:  # noqa: BLE001 - a figure may be any object, and the event must be logged
        return f"<{type(value).__name__} cannot be formatted: {type(error).__name__}>"


def _to_plain(value: object, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return int(value)
    if depth and isinstance(value, dict):
        return {mask_secrets(str(name)): _to_plain(item, depth - 1) for name, item in value.items()}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_to_plain(item, depth - 1) for item in value]
    return mask_secrets(str(value))


def to_json(value: object) -> str:
    """Return ``value`` as JSON, also if its texts hold half a surrogate pair."""
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        import json  # escapes a lone surrogate, which UTF-8 cannot encode

        return json.dumps(value)


def _figures(fields: Mapping[str, Any]) -> str:
    """Return figures as text, a space before each; one loop, as each request has a line with a dozen of them."""
    figures = ""
    for name, value in fields.items():
        kind = type(value)
        if kind is str:
            # The space is the only printable whitespace.
            is_word = value and " " not in value and (value.isprintable() or not _SPACE.search(value))
            figures += f" {name}={value}" if is_word else f" {name}={value!r}"
        elif kind is float:
            figures += f" {name}={value:.3f}"
        elif kind is int:
            figures += f" {name}={value / 1024**2:.1f}MB" if name in SIZE_FIGURES else f" {name}={value}"
        else:
            figures += f" {name}={_structure(name, value)}"
    return figures


def _structure(name: str, value: Any) -> str:
    if name == "workers" and isinstance(value, dict) and all(isinstance(size, int) for size in value.values()):
        return ",".join(f"{worker}:{size / 1024**2:.1f}MB" for worker, size in value.items()) or "none"
    text = to_json(value)
    return repr(text) if not text or any(character.isspace() for character in text) else text
