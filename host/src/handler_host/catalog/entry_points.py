"""What one distribution's ``entry_points.txt`` has in the host's groups: bytes in, claims out.

The standard library's reader fails for everybody when one file is malformed, and
decodes and parses all files of all distributions. This one looks at the bytes
first, reads the host's groups only, and turns what is wrong into text.
"""

from __future__ import annotations

import re
from keyword import iskeyword

import msgspec

GROUP_PREFIX = "handler_host.v"
MARK = GROUP_PREFIX.encode()
"""What a file must contain to be worth parsing."""

MAX_NAME = 64
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_SECTION = re.compile(r"\[\s*(.*?)\s*\]")
_MAJOR = re.compile(r"[1-9][0-9]{0,3}")
_VALUE = re.compile(r"(?P<module>[^\s:\[\]]+)\s*:\s*(?P<attribute>[^\s:\[\]]+)\s*(\[.*\])?")


class Claim(msgspec.Struct, frozen=True):
    """One line of one of the host's groups."""

    name: str
    major: int
    """Of the API, as the group says: 1 of ``handler_host.v1``."""
    value: str
    """``module:attribute``, without blanks and extras; as it was written where that is not what it is."""
    flaw: str | None = None
    """Why it cannot be a handler."""


class Advertised(msgspec.Struct, frozen=True):
    """All that one file has in the host's groups."""

    claims: list[Claim]
    complaints: list[str]
    """About lines that name no handler."""


def parse(data: bytes) -> Advertised:
    """Read the host's groups of an ``entry_points.txt``. Never raises; what is wrong is in the answer."""
    if MARK not in data:
        return Advertised([], [])
    # A stray byte harms its own line: the replacement character is no part of a valid name or value.
    text = data.removeprefix(b"\xef\xbb\xbf").decode(errors="replace")
    claims: dict[tuple[int, str], Claim] = {}
    complaints: list[str] = []
    major: int | None = None
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        if line[0] == "[":
            major, complaint = _section(line)
            if complaint:
                complaints.append(f"line {number}: {complaint}")
        elif major is not None:
            claim = _claim(line, major)
            if claim is None:
                complaints.append(f"line {number}: {line[:80]!r} is not 'name = module:attribute'")
            elif (major, claim.name) in claims:
                claims[major, claim.name] = Claim(claim.name, major, claim.value, f"line {number} gives it again")
            else:
                claims[major, claim.name] = claim
    return Advertised(list(claims.values()), complaints)


def _section(line: str) -> tuple[int | None, str | None]:
    """Return the API's major version that a section's header names, and what is wrong with the header."""
    match = _SECTION.fullmatch(line)
    if match is None:
        return None, f"{line[:80]!r} is no section header" if GROUP_PREFIX in line else None
    group = match[1]
    if not group.startswith(GROUP_PREFIX):
        return None, None
    version = group.removeprefix(GROUP_PREFIX)
    if _MAJOR.fullmatch(version) is None:
        return (
            None,
            f"{group[:80]!r} is no entry point group of the host; they are called like handler_host.v1",
        )
    return int(version), None


def _claim(line: str, major: int) -> Claim | None:
    name, equals, value = (part.strip() for part in line.partition("="))
    if not equals or not name:
        return None
    match = _VALUE.fullmatch(value)
    written = f"{match['module']}:{match['attribute']}" if match is not None else value
    return Claim(name, major, written, _flaw_of_name(name) or _flaw_of_value(value, match))


def _flaw_of_name(name: str) -> str | None:
    if "\ufffd" in name:
        return "its name is not UTF-8"
    if len(name) > MAX_NAME:
        return f"its name is longer than {MAX_NAME} characters"
    if _NAME.fullmatch(name) is None:
        return (
            f"{name!r} is no handler name: lowercase letters, digits, '_', '-' and '.', "
            "of which the first is a letter or a digit"
        )
    return None


def _flaw_of_value(value: str, match: re.Match[str] | None) -> str | None:
    if match is not None:
        parts = [*match["module"].split("."), *match["attribute"].split(".")]
        if all(part.isidentifier() and not iskeyword(part) for part in parts):
            return None
    return f"its entry point {value!r} is not 'module:attribute', like 'my_gpt:MyGpt'"
