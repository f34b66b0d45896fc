"""Consumers file: keys of the consumers, their rights and limits.

.. code-block:: toml

    [consumers.team-a]
    hash = "sha256:..."            # of the key; `handler-host keys new` makes both
    handlers = ["gpt_a", "gpt_e"]  # default: all
    requests_per_minute = 60       # default: no limit
    tokens_per_minute = 100_000    # input and output; default: no limit
    tokens_per_day = 5_000_000     # in UTC; default: no limit
    concurrency = 4                # dispatches in flight; default: no limit
    unsupported = "refuse"         # for fields that a handler lacks; default: the handler's
    expires = 2027-01-01           # default: never
"""

from __future__ import annotations

import datetime
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from handler_host._internal.source_location import lines_of, place_in_toml
from handler_host._internal.suggestions import did_you_mean
from handler_host._internal.toml_error import explain_toml_error
from handler_host.config.policy import Unsupported
from handler_host.config.text_file import read_text
from handler_host.config.values import show
from handler_host.plugin.errors import ConfigError

MAX_LIMIT = 100_000
"""Largest number of requests per minute, and of dispatches in flight."""
MAX_TOKENS = 10**12
"""Largest number of tokens per minute and per day."""
LIMITS = {
    "requests_per_minute": MAX_LIMIT,
    "tokens_per_minute": MAX_TOKENS,
    "tokens_per_day": MAX_TOKENS,
    "concurrency": MAX_LIMIT,
}
"""The limits of a consumer, each with its largest value."""
UNSUPPORTED = typing.get_args(Unsupported)
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)
MOMENT_FORM = "must be a day (2027-01-01) or a time (2027-01-01T12:00:00Z)"
NAME_FORM = "1 to 64 letters, digits, dots, dashes or underscores"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """Consumer as the file has it."""

    hash: str
    handlers: tuple[str, ...] | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    concurrency: int | None = None
    unsupported: str | None = None
    created: datetime.datetime | None = None
    expires: datetime.datetime | None = None
    revoked: datetime.datetime | None = None
    old_hash: str | None = None
    """Hash of the key before the last rotation, which is valid until ``old_expires``."""
    old_expires: datetime.datetime | None = None

    def digests(self) -> Iterator[tuple[str, Entry]]:
        """Yield the hash of each key of the consumer, with its rights."""
        yield self.hash, self
        if self.old_hash is not None:
            ends = [end for end in (self.expires, self.old_expires) if end is not None]
            yield self.old_hash, msgspec.structs.replace(self, hash=self.old_hash, expires=min(ends, default=None))


def parse_consumers(text: str, where: str) -> dict[str, Entry]:
    """Return the consumers of a file or variable, which may also be JSON; raises :class:`ConfigError`."""
    tables = _tables(text, where)
    problems: list[tuple[str, str]] = []
    entries: dict[str, Entry] = {}
    hashes: dict[str, str] = {}
    for name, table in tables.items():
        if not is_name(name):
            problems.append((name, f"a name must be {NAME_FORM}"))
            continue
        try:
            entry = entries[name] = _entry(table)
        except ValueError as error:
            problems.append((name, str(error)))
            continue
        for digest, _ in entry.digests():
            first = hashes.setdefault(digest, name)
            if first != name:
                problems.append((name, f"hash: same as that of {first}; each consumer needs a key of its own"))
    if problems:
        lines = lines_of(text)  # a valid file is not searched for them
        raise ConfigError("\n".join(f"{_place(where, lines, name)}: {problem}" for name, problem in problems))
    return entries


def read_consumers(file: Path) -> dict[str, Entry]:
    """Return the consumers of a file; raises :class:`ConfigError` if it is missing or invalid."""
    remedy = f"`handler-host keys new NAME --file {file}` makes it"
    return parse_consumers(read_text(file, f"auth.consumers_file: {file}", remedy), str(file))


def is_name(text: str) -> bool:
    """Return whether a consumer may have this name."""
    return _NAME.fullmatch(text) is not None


def _place(where: str, lines: Mapping[tuple[str, ...], int], name: str) -> str:
    table = f"[consumers.{name if is_name(name) else show(name)}]"
    return f"{place_in_toml(where, lines, ('consumers', name))}: {table}"


def moment(value: object) -> datetime.datetime:
    """Return a day or a time as a time in UTC; raises ``ValueError``."""
    if isinstance(value, str):
        value = datetime.datetime.fromisoformat(value)
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day, tzinfo=datetime.UTC)
    if not isinstance(value, datetime.datetime):
        raise ValueError(MOMENT_FORM)  # noqa: TRY004 - all flaws of the file are ValueErrors
    return value if value.tzinfo is not None else value.replace(tzinfo=datetime.UTC)


def _tables(text: str, where: str) -> dict[str, Any]:
    import tomllib  # needed only for consumers in a file or variable

    try:
        document = msgspec.json.decode(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: neither TOML nor JSON: {explain_toml_error(error)}") from None
    for key in document:
        if key != "consumers":
            raise ConfigError(f"{where}: unknown key {key!r}; write consumers as [consumers.NAME]")
    tables = document.get("consumers", {})
    if not isinstance(tables, dict):
        raise ConfigError(f"{where}: consumers: must be tables, [consumers.NAME]")
    return tables


def _entry(table: object) -> Entry:
    """Return one consumer; raises ``ValueError`` with the key and what is wrong."""
    if not isinstance(table, dict):
        raise ValueError("must be a table")  # noqa: TRY004 - all flaws of the file are ValueErrors
    for key in table:
        if key not in Entry.__struct_fields__:
            raise ValueError(f"unknown key {key!r}{did_you_mean(key, Entry.__struct_fields__)}")
    if not isinstance(table.get("hash"), str) or _HASH.fullmatch(table["hash"]) is None:
        raise ValueError("hash: must be sha256:HEX; `handler-host keys new` makes a key and its hash")
    values = {key: read(key, table[key]) for key, read in _READ.items() if table.get(key) is not None}
    return Entry(hash=table["hash"], **values)


def _digest(key: str, value: object) -> str:
    if not isinstance(value, str) or _HASH.fullmatch(value) is None:
        raise ValueError(f"{key}: must be sha256:HEX; `handler-host keys rotate` writes it")
    return value


def _names(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{key} = {show(value)}: must be a list of names")
    return tuple(value)


def _count(key: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LIMITS[key]:
        raise ValueError(f"{key} = {show(value)}: must be a whole number from 1 to {LIMITS[key]}")
    return value


def _unsupported(key: str, value: object) -> str:
    if value not in UNSUPPORTED:
        raise ValueError(f"{key} = {show(value)}: must be {' or '.join(UNSUPPORTED)}")
    return str(value)


def _moment(key: str, value: object) -> datetime.datetime:
    try:
        return moment(value)
    except ValueError:
        raise ValueError(f"{key} = {show(value)}: {MOMENT_FORM}") from None


_READ: dict[str, Callable[[str, object], Any]] = {
    "handlers": _names,
    **dict.fromkeys(LIMITS, _count),
    "unsupported": _unsupported,
    "created": _moment,
    "expires": _moment,
    "revoked": _moment,
    "old_hash": _digest,
    "old_expires": _moment,
}
