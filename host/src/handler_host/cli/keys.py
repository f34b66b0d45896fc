"""``handler-host keys``: new, list, revoke, in the consumers' file."""

from __future__ import annotations

import datetime
import json
import re
import secrets
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from handler_host._internal.atomic_write import replace_file
from handler_host._internal.units import parse_duration
from handler_host.auth.consumer_file import MOST, NAME_FORM, Entry, is_name, moment, parse_consumers
from handler_host.cli.failure import OK, REFUSED, USAGE, Failure
from handler_host.cli.flags import loaded
from handler_host.cli.render import echo, note, put_json, put_table
from handler_host.config.loader import hash_key

PREFIX = "hh_"
"""Begins each key that is made here, so that one that has leaked is recognised."""


def keys(arguments: SimpleNamespace) -> int:
    """Do what is asked."""
    file = _file(arguments)
    if arguments.action == "list":
        return _list(file, as_json=arguments.json)
    if not arguments.name:
        raise Failure(f"name a consumer: handler-host keys {arguments.action} team-a", USAGE)
    if arguments.action == "new":
        return _new(file, arguments)
    return _revoke(file, arguments.name)


def _file(arguments: SimpleNamespace) -> Path:
    if arguments.file is not None:
        return Path(arguments.file)
    configured: Path | None = loaded(arguments).config.auth.consumers_file
    if configured is None:
        raise Failure("there is no consumers' file: set auth.consumers_file in the configuration, or --file", USAGE)
    return configured


def _read(file: Path) -> tuple[str, dict[str, Entry]]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return "", {}
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"{file}: cannot be read: {error}", USAGE) from error
    return text, parse_consumers(text, str(file))


def _new(file: Path, arguments: SimpleNamespace) -> int:
    """Make a key, keep its hash, print it once."""
    name = arguments.name
    if not is_name(name):
        raise Failure(f"{name!r}: a name has to be {NAME_FORM}", USAGE)
    text, entries = _read(file)
    if name in entries:
        raise Failure(f"{file}: there is a consumer {name!r} already; take another name, also after it was revoked")
    key = PREFIX + secrets.token_urlsafe(32)
    lines = [f"[consumers.{_quoted(name)}]", f'hash = "{hash_key(key)}"', f"created = {_now()}"]
    if arguments.handlers:
        names = [each.strip() for each in arguments.handlers.split(",") if each.strip()]
        lines.append(f"handlers = {json.dumps(names)}")
    for option in ("requests_per_minute", "concurrency"):
        number = getattr(arguments, option)
        if number is not None:
            if not 1 <= number <= MOST:
                raise Failure(f"--{option.replace('_', '-')} {number}: has to be from 1 to {MOST}", USAGE)
            lines.append(f"{option} = {number}")
    if arguments.expires is not None:
        lines.append(f"expires = {_end(arguments.expires)}")
    block = "\n".join(lines) + "\n"
    _write(file, f"{text.rstrip()}\n\n{block}" if text.strip() else block, name)
    note(f"{name} is in {file}. The key is shown this once:")
    echo(key)
    return OK


def _list(file: Path, *, as_json: bool) -> int:
    _, entries = _read(file)
    now = datetime.datetime.now(datetime.UTC)
    shown: list[dict[str, Any]] = [
        {
            "name": name,
            "state": "revoked"
            if entry.revoked is not None
            else "expired"
            if entry.expires is not None and entry.expires <= now
            else "valid",
            "handlers": list(entry.handlers) if entry.handlers is not None else None,
            "requests_per_minute": entry.requests_per_minute,
            "concurrency": entry.concurrency,
            "expires": entry.expires.isoformat() if entry.expires is not None else None,
        }
        for name, entry in entries.items()
    ]
    if as_json:
        put_json({"consumers": shown})
        return OK
    rows = [
        (
            one["name"],
            one["state"],
            "all" if one["handlers"] is None else ", ".join(one["handlers"]) or "none",
            str(one["requests_per_minute"] or "-"),
            str(one["concurrency"] or "-"),
            (one["expires"] or "-")[:16].replace("T", " "),
        )
        for one in shown
    ]
    put_table(("NAME", "KEY", "HANDLERS", "A MINUTE", "AT A TIME", "EXPIRES"), rows, left=("NAME", "KEY", "HANDLERS"))
    if not rows:
        note(f"{file} has no consumers: handler-host keys new NAME")
    return OK


def _revoke(file: Path, name: str) -> int:
    """Write the moment of its end into a consumer's table; what else is in the file stays as it is."""
    text, entries = _read(file)
    if name not in entries:
        known = ", ".join(entries) or "none"
        raise Failure(f"{file}: there is no consumer {name!r}; there are: {known}")
    if entries[name].revoked is not None:
        note(f"{name} was revoked already")
        return OK
    header = re.compile(
        rf"""^\s*\[\s*consumers\s*\.\s*(?:{re.escape(name)}|"{re.escape(name)}"|'{re.escape(name)}')\s*\].*$"""
    )
    lines = text.splitlines()
    place = next((number for number, line in enumerate(lines) if header.match(line)), None)
    if place is None:
        raise Failure(
            f"{file}: [consumers.{name}] is not written as a table of its own; add revoked = {_now()} to it", REFUSED
        )
    lines.insert(place + 1, f"revoked = {_now()}")
    _write(file, "\n".join(lines) + "\n", name)
    echo(f"{name} is revoked; a running host sees it within a second of the next request")
    return OK


def _write(file: Path, text: str, name: str) -> None:
    """Replace the file in one step, if it is right then and has this consumer."""
    assert name in parse_consumers(text, str(file)), "what is written is what was meant"
    try:
        mode = file.stat().st_mode & 0o777 if file.exists() else 0o600
        replace_file(file, text.encode(), mode=mode)
    except OSError as error:
        raise Failure(f"{file}: cannot be written: {error.strerror}", REFUSED) from error


def _end(text: str) -> str:
    """Return a moment as TOML has it, of a day, a moment, or a duration from now on (``90d``, ``12h``)."""
    try:
        if match := re.fullmatch(r"(\d{1,5})d", text):
            end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=int(match[1]))
        elif re.match(r"\d{4}-", text):
            end = moment(text)
        else:
            end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        raise Failure(
            f"--expires {text}: has to be a day (2027-01-01), a moment (2027-01-01T12:00:00Z), "
            "or a time from now (90d)",
            USAGE,
        ) from None
    return end.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[\w-]+", name, re.ASCII) else json.dumps(name)
