"""Create, list and revoke the keys in a consumers file."""

from __future__ import annotations

import datetime
import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from handler_host._internal.atomic_write import replace_file
from handler_host._internal.suggestions import did_you_mean
from handler_host._internal.units import parse_duration
from handler_host.auth.consumer_file import LIMITS, NAME_FORM, Entry, is_name, moment, parse_consumers
from handler_host.catalog.catalog import scan_config
from handler_host.cli.failure import OK, REFUSED, USAGE, Failure
from handler_host.cli.render import echo, echo_json, echo_table, note
from handler_host.config import Config
from handler_host.config.loader import hash_key
from handler_host.config.text_file import read_text
from handler_host.config.toml_text import toml_key
from handler_host.plugin.errors import ConfigError

KEY_PREFIX = "hh_"
"""Start of each key: secret scanners recognise a leaked one by it."""


def check_handlers(names: Sequence[str], config: Config) -> None:
    """Raise :class:`Failure` if a handler is not installed, so that a typo cannot make a key that opens nothing."""
    installed = scan_config(config, os.environ).entries
    for name in names:
        if name not in installed:
            hint = did_you_mean(name, installed) or "; no handler is installed"
            raise Failure(f"--handlers: unknown handler {name!r}{hint}", USAGE)


def create_key(
    file: Path,
    name: str,
    *,
    handlers: Sequence[str] | None = None,
    limits: Mapping[str, int | None],
    expires: str | None = None,
) -> int:
    """Add a consumer to the file and print its key; return the exit status.

    ``handlers`` are those that the key may call (None: all), ``limits`` its limits by name, ``expires`` is a date, a
    time, or a duration from now.
    """
    if not is_name(name):
        raise Failure(f"{name!r}: a name must be {NAME_FORM}", USAGE)
    text, entries = _read(file)
    if name in entries:
        raise Failure(f"{file}: the consumer {name!r} exists already; choose another name, also after a revocation")
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    lines = [f"[consumers.{toml_key(name)}]", f'hash = "{hash_key(key)}"', f"created = {_now()}"]
    if handlers is not None:
        lines.append(f"handlers = {json.dumps(list(handlers))}")
    for option, number in limits.items():
        if number is not None:
            if not 1 <= number <= LIMITS[option]:
                raise Failure(f"--{option.replace('_', '-')} {number}: must be from 1 to {LIMITS[option]}", USAGE)
            lines.append(f"{option} = {number}")
    if expires is not None:
        lines.append(f"expires = {_expiry(expires)}")
    block = "\n".join(lines) + "\n"
    _write(file, f"{text.rstrip()}\n\n{block}" if text.strip() else block, name)
    note(f"{name} is in {file}. This is its key; it cannot be shown again:")
    echo(key)
    return OK


def list_keys(file: Path, *, as_json: bool) -> int:
    """Print the consumers; return the exit status."""
    _, entries = _read(file)
    now = datetime.datetime.now(datetime.UTC)
    consumers: list[dict[str, Any]] = [
        {
            "name": name,
            "state": _state(entry, now),
            "handlers": list(entry.handlers) if entry.handlers is not None else None,
            **{limit: getattr(entry, limit) for limit in LIMITS},
            "expires": _iso(entry.expires),
            "old_key": _old_key(entry, now),
        }
        for name, entry in entries.items()
    ]
    if as_json:
        echo_json({"consumers": consumers})
        return OK
    rows = [
        (
            consumer["name"],
            consumer["state"],
            "all" if consumer["handlers"] is None else ", ".join(consumer["handlers"]) or "none",
            *(str(consumer[limit] or "-") for limit in LIMITS),
            _minute(consumer["expires"]),
            _old_key_text(consumer["old_key"]),
        )
        for consumer in consumers
    ]
    columns = ("NAME", "KEY", "HANDLERS", "REQUESTS/MIN", "TOKENS/MIN", "TOKENS/DAY", "CONCURRENCY", "EXPIRES")
    echo_table((*columns, "OLD KEY"), rows, left=("NAME", "KEY", "HANDLERS", "OLD KEY"))
    if not rows:
        note(f"{file} has no consumers; create one: handler-host keys new NAME")
    return OK


def revoke_key(file: Path, name: str) -> int:
    """Add the time of revocation to a consumer's table; the rest of the file stays. Return the exit status."""
    text, entries = _read(file)
    if name not in entries:
        raise Failure(f"{file}: unknown consumer {name!r}; known: {', '.join(entries) or 'none'}")
    if entries[name].revoked is not None:
        note(f"{name} is already revoked")
        return OK
    lines = text.splitlines()
    lines.insert(_table_line(file, lines, name, f"revoked = {_now()}") + 1, f"revoked = {_now()}")
    _write(file, "\n".join(lines) + "\n", name)
    echo(f"{name} is revoked; a running host refuses the key within a second of its next request")
    return OK


def rotate_key(file: Path, name: str, *, overlap: str) -> int:
    """Give a consumer a new key and print it; the present one stays valid for ``overlap``. Return the exit status."""
    text, entries = _read(file)
    if name not in entries:
        raise Failure(f"{file}: unknown consumer {name!r}{did_you_mean(name, entries)}")
    if entries[name].revoked is not None:
        raise Failure(f"{file}: {name} is revoked; create a consumer with another name", REFUSED)
    key, end = KEY_PREFIX + secrets.token_urlsafe(32), _expiry(overlap, "--overlap")
    lines = text.splitlines()
    start = _table_line(file, lines, name, f'old_hash = "{entries[name].hash}", old_expires = {end} and a new hash') + 1
    stop = next((n for n in range(start, len(lines)) if lines[n].lstrip().startswith("[")), len(lines))
    kept = [line for line in lines[start:stop] if not re.match(r"\s*(hash|old_hash|old_expires)\s*=", line)]
    new = [f'hash = "{hash_key(key)}"', f'old_hash = "{entries[name].hash}"', f"old_expires = {end}"]
    _write(file, "\n".join([*lines[:start], *new, *kept, *lines[stop:]]) + "\n", name)
    note(f"{name} has a new key; the present one is valid until {end}. It cannot be shown again:")
    echo(key)
    return OK


def _table_line(file: Path, lines: Sequence[str], name: str, by_hand: str) -> int:
    """Return the number of the line that begins a consumer's table."""
    quoted = re.escape(name)
    header = re.compile(rf"""^\s*\[\s*consumers\s*\.\s*(?:{quoted}|"{quoted}"|'{quoted}')\s*\].*$""")
    number = next((number for number, line in enumerate(lines) if header.match(line)), None)
    if number is None:
        raise Failure(f"{file}: [consumers.{name}] is not a table of its own; add {by_hand} to it by hand", REFUSED)
    return number


def _old_key(entry: Entry, now: datetime.datetime) -> dict[str, str | None] | None:
    """Return state and end of the key before the last rotation; None if there was no rotation."""
    _, *former = [key for _, key in entry.digests()]
    return {"state": _state(former[0], now), "expires": _iso(former[0].expires)} if former else None


def _old_key_text(old_key: dict[str, str | None] | None) -> str:
    if old_key is None:
        return "-"
    if old_key["state"] != "valid":
        return str(old_key["state"])
    return f"valid until {_minute(old_key['expires'])}" if old_key["expires"] else "valid"


def _iso(time: datetime.datetime | None) -> str | None:
    return time.isoformat() if time is not None else None


def _minute(time: str | None) -> str:
    """Return an ISO time to the minute, for the table."""
    return time[:16].replace("T", " ") if time is not None else "-"


def _state(entry: Entry, now: datetime.datetime) -> str:
    if entry.revoked is not None:
        return "revoked"
    return "expired" if entry.expires is not None and entry.expires <= now else "valid"


def _read(file: Path) -> tuple[str, dict[str, Entry]]:
    try:
        text = read_text(file, str(file), "give another file with --file")
    except ConfigError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return "", {}
        raise
    return text, parse_consumers(text, str(file))


def _write(file: Path, text: str, name: str) -> None:
    """Replace the file in one step, after checking that the new text is valid and has the consumer."""
    assert name in parse_consumers(text, str(file)), "the new text must have the consumer"
    try:
        mode = file.stat().st_mode & 0o777 if file.exists() else 0o600
        replace_file(file, text.encode(), mode=mode)
    except OSError as error:
        raise Failure(f"{file}: cannot write it: {error.strerror}", REFUSED) from error


def _expiry(text: str, option: str = "--expires") -> str:
    """Return the TOML date-time for a date, a time, or a duration from now (``90d``, ``12h``)."""
    try:
        if match := re.fullmatch(r"(\d{1,5})d", text):
            end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=int(match[1]))
        elif re.match(r"\d{4}-", text):
            end = moment(text)
        else:
            end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        raise Failure(
            f"{option} {text}: must be a date (2027-01-01), a time (2027-01-01T12:00:00Z), or a time from now (90d)",
            USAGE,
        ) from None
    return end.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
