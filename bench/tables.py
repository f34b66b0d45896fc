"""Tables that benchmarks print: machine, versions, number of runs, medians and ratios."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version

DISTRIBUTIONS = ("handler-host", "aiohttp", "msgspec", "pluggy")
"""Distributions whose versions every header names."""


def header(*distributions: str) -> list[str]:
    """Return the lines that describe the machine and the versions, those of ``distributions`` too."""
    names = [*DISTRIBUTIONS, *distributions]
    return [
        f"machine: {_processor()}, {os.cpu_count()} CPUs, {_memory()}, {platform.system()} {platform.release()}",
        f"versions: Python {platform.python_version()}, " + ", ".join(f"{name} {_version(name)}" for name in names),
        f"load before: {os.getloadavg()[0]:.2f}",
    ]


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], notes: Sequence[str] = ()
) -> None:
    """Print a Markdown table with aligned columns; numbers are aligned to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [all(_is_number(row[index]) for row in cells) for index in range(len(columns))]
    widths = [max(len(row[index]) for row in [columns, *cells]) for index in range(len(columns))]

    def line(row: Sequence[str]) -> str:
        aligned = (
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        )
        return f"| {' | '.join(aligned)} |"

    rule = "|".join("-" * (width + 1) + (":" if right else "-") for width, right in zip(widths, numeric, strict=True))
    print(f"\n## {title}\n", line(columns), f"|{rule}|", *map(line, cells), sep="\n")
    if notes:
        print("", *notes, sep="\n")


def row(values: Iterable[object]) -> str:
    """Return a row of a Markdown table that is printed while it grows."""
    return f"| {' | '.join(map(_cell, values))} |"


def ratio(value: float, base: float) -> str:
    """Return ``1.23x``."""
    return f"{value / base:.2f}x" if base else "-"


def verdict(value: float, target: float, *, at_least: bool = False) -> str:
    """Return ``reached`` or ``MISSED``."""
    return "reached" if (value >= target if at_least else value <= target) else "MISSED"


def _cell(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text[:1] in "+-"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = (line.partition(":")[2].strip() for line in file if line.startswith("model name"))
            return next(names, platform.machine())
    except OSError:
        return platform.machine()


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1024**3:.1f} GiB"
    except (OSError, ValueError):
        return "memory unknown"
