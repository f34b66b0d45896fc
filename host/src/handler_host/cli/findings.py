"""Findings: what `doctor`, `check` and `config check` looked at, and how serious it is."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from handler_host.cli.render import echo


class Level(enum.StrEnum):
    """How serious a finding is."""

    OK = "ok"
    NOTE = "note"
    """A figure, or something that could not be checked."""
    WARNING = "warning"
    """Works, but can cause trouble."""
    PROBLEM = "problem"
    """Does not work; the command ends with status 1."""


MARKS = {Level.OK: "ok", Level.NOTE: "note", Level.WARNING: "WARNING", Level.PROBLEM: "PROBLEM"}
"""How the levels are printed: what needs attention is in capitals."""


class Finding(NamedTuple):
    """One thing that was checked, with the result and the remedy."""

    level: Level
    place: str
    """A handler, a section of the configuration, or a part of the machine or of a plugin's project."""
    text: str


def echo_finding(finding: Finding, *, width: int) -> None:
    """Print a finding; ``width`` is that of the column of places."""
    echo(f"{MARKS[finding.level].ljust(8)} {finding.place.ljust(width)}  {finding.text}")


def echo_findings(findings: Sequence[Finding]) -> None:
    """Print findings as aligned lines."""
    width = max(len(finding.place) for finding in findings)
    for finding in findings:
        echo_finding(finding, width=width)


def has_problem(findings: Sequence[Finding]) -> bool:
    """Return whether one of the findings is a problem."""
    return any(finding.level is Level.PROBLEM for finding in findings)


def join_words(words: Iterable[str]) -> str:
    """Return words in their order in the alphabet, for the text of a finding; ``none`` if there are none."""
    return ", ".join(sorted(words)) or "none"
