"""Parser for the host's groups in an ``entry_points.txt``: from bytes to claims.

The reader of the standard library fails as a whole when one file is malformed, and it decodes
and parses all files of all distributions. This one looks at the bytes first, reads only the
host's groups, and returns mistakes as text.
"""

from __future__ import annotations

import re
from keyword import iskeyword

import msgspec

GROUP_PREFIX = "handler_host.v"
MARK = GROUP_PREFIX.encode()
"""Bytes that every file with an entry point of the host contains."""

MAX_NAME = 64
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_SECTION = re.compile(r"\[\s*(.*?)\s*\]")
_MAJOR = re.compile(r"[1-9][0-9]{0,3}")
_VALUE = re.compile(r"(?P<module>[^\s:\[\]]+)\s*:\s*(?P<attribute>[^\s:\[\]]+)\s*(\[.*\])?")


class Claim(msgspec.Struct, frozen=True):
    """One line of one of the host's groups."""

    name: str
    major: int
    """Major version of the API in the group's name: 1 for ``handler_host.v1``."""
    value: str
    """``module:attribute`` without blanks and extras; unchanged if the value is invalid."""
    error: str | None = None
    """The reason why the claim is invalid."""


class EntryPoints(msgspec.Struct, frozen=True):
    """The entry points of one file in the host's groups."""

    claims: list[Claim]
    warnings: list[str]
    """About lines without a handler's name."""


def parse(data: bytes) -> EntryPoints:
    """Return the host's groups of an ``entry_points.txt``; never raises, mistakes are in the result."""
    if MARK not in data:
        return EntryPoints([], [])
    # An invalid byte spoils only its line: no valid name or value has the replacement character.
    text = data.removeprefix(b"\xef\xbb\xbf").decode(errors="replace")
    claims: dict[tuple[int, str], Claim] = {}
    warnings: list[str] = []
    major: int | None = None
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        if line[0] == "[":
            major, warning = _section(line)
            if warning:
                warnings.append(f"line {number}: {warning}")
        elif major is not None:
            claim = _claim(line, major)
            if claim is None:
                warnings.append(f"line {number}: {line[:80]!r} is not 'name = module:attribute'")
            elif (major, claim.name) in claims:
                claims[major, claim.name] = Claim(claim.name, major, claim.value, f"line {number} repeats the name")
            else:
                claims[major, claim.name] = claim
    return EntryPoints(list(claims.values()), warnings)


def _section(line: str) -> tuple[int | None, str | None]:
    """Return the API's major version of a section header, and a warning about the header."""
    match = _SECTION.fullmatch(line)
    if match is None:
        return None, f"{line[:80]!r} is not a valid section header" if GROUP_PREFIX in line else None
    group = match[1]
    if not group.startswith(GROUP_PREFIX):
        return None, None
    version = group.removeprefix(GROUP_PREFIX)
    if _MAJOR.fullmatch(version) is None:
        return (
            None,
            f"{group[:80]!r} is not a valid entry-point group of the host; write it like handler_host.v1",
        )
    return int(version), None


def _claim(line: str, major: int) -> Claim | None:
    name, equals, value = (part.strip() for part in line.partition("="))
    if not equals or not name:
        return None
    match = _VALUE.fullmatch(value)
    written = f"{match['module']}:{match['attribute']}" if match is not None else value
    return Claim(name, major, written, name_error(name) or _value_error(value, match))


def name_error(name: str) -> str | None:
    """Return why a name cannot be that of a handler, or None."""
    if "\ufffd" in name:
        return "its name is not UTF-8"
    if len(name) > MAX_NAME:
        return f"its name is longer than {MAX_NAME} characters"
    if _NAME.fullmatch(name) is None:
        return (
            f"{name!r} is not a valid handler name; use lowercase letters, digits, '_', '-' and '.', "
            "and begin with a letter or a digit"
        )
    return None


def _value_error(value: str, match: re.Match[str] | None) -> str | None:
    if match is not None:
        parts = [*match["module"].split("."), *match["attribute"].split(".")]
        if all(part.isidentifier() and not iskeyword(part) for part in parts):
            return None
    return f"its entry point {value!r} is not 'module:attribute'; write it like 'my_gpt:MyGpt'"
