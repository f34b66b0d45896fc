"""``handler-host doctor``: what is installed, what is wrong and what to do about it, and which plan it needs."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec

from handler_host._internal.suggestions import did_you_mean
from handler_host._internal.units import format_size
from handler_host.catalog.catalog import CatalogEntry, scan
from handler_host.cli import diagnosis, remote_host
from handler_host.cli.client import Client
from handler_host.cli.dependencies import of_dependencies
from handler_host.cli.diagnosis import Finding
from handler_host.cli.failure import OK, REFUSED, USAGE, Failure
from handler_host.cli.flags import loaded
from handler_host.cli.local_host import own_host
from handler_host.cli.plan import PLANS, Footprint, Need, advice, budget_of, expected_of, needs
from handler_host.cli.render import echo, note, put_json, put_table, size
from handler_host.config import Config, with_state_file
from handler_host.memory.cgroups import MemoryLimit, read_limit
from handler_host.memory.footprints import FootprintStore
from handler_host.workers.launch_spec import policy_of

MARKS = {"ok": "ok", "note": "note", "warning": "WARNING", "problem": "PROBLEM"}


def doctor(arguments: SimpleNamespace) -> int:
    """Look, print, and end with 1 if there is a problem."""
    config = loaded(arguments).config
    blocked = [name for name in config.handlers if not config.policy(name).enabled]
    catalog = scan(config.catalog, os.environ, blocked=blocked)
    limit = read_limit(config.memory)
    host, asked = remote_host.ask(arguments)
    judged = {name: host.judged(entry) if host is not None else entry for name, entry in catalog.entries.items()}
    learned = FootprintStore(with_state_file(config, os.environ).memory.state_file)
    learned.load()
    findings = [
        *diagnosis.of_place(arguments.config or os.environ.get("HANDLER_HOST_CONFIG"), learned.path),
        asked,
        *diagnosis.of_machine(limit),
        *diagnosis.of_access(config),
        *diagnosis.of_handlers(msgspec.structs.replace(catalog, entries=judged)),
        *diagnosis.of_settings(config, catalog.entries),
        *of_dependencies(catalog.entries.values()),
    ]
    runnable = {name: entry for name, entry in judged.items() if entry.problem is None}
    left_out = {name: entry.problem.state for name, entry in judged.items() if entry.problem is not None}
    measured: dict[str, Measured] = {}
    if arguments.measure:
        # With this shell's secrets, whatever another host has.
        for name, outcome in _measure(arguments, [name for name in runnable if catalog.entries[name].problem is None]):
            if isinstance(outcome, Finding):
                findings.append(outcome)
            else:
                measured[name] = outcome
    footprints = [_footprint(config, entry, measured, learned, host) for entry in runnable.values()]
    expected = _expected(arguments, footprints)
    found = needs(footprints, expected)
    if arguments.json:
        put_json(_as_json(config, limit, findings, footprints, found, left_out))
    else:
        _put(findings)
        echo()
        _put_plan(config, limit, footprints, found, left_out)
    return REFUSED if any(finding.level == "problem" for finding in findings) else OK


Measured = tuple[int, float]
"""What an activation took: bytes of PSS, and seconds."""


def _put(findings: Sequence[Finding]) -> None:
    width = max(len(finding.place) for finding in findings)
    for finding in findings:
        echo(f"{MARKS[finding.level].ljust(8)} {finding.place.ljust(width)}  {finding.text}")


def _put_plan(
    config: Config,
    limit: MemoryLimit,
    footprints: Sequence[Footprint],
    found: Sequence[Need],
    left_out: Mapping[str, str],
) -> None:
    known = {one.handler: one.known for one in footprints}
    cold_starts = {
        one.handler: f"{one.activate_seconds:.2f} s" for one in footprints if one.activate_seconds is not None
    }
    last = ("COLD START",) if cold_starts else ()
    columns = ("NEED", "MEMORY", *(format_size(plan) for plan in PLANS), "KNOWN", *last)
    rows = [
        (
            need.name if need.name in known else f"{need.name} ({len(need.handlers)})",
            size(need.bytes),
            *("fits" if need.fits(config, plan) else "no" for plan in PLANS),
            known.get(need.name, ""),
            *(cold_starts.get(need.name, "") for _ in last),
        )
        for need in found
    ]
    put_table(columns, rows, left=("NEED", "KNOWN"))
    headroom = format_size(PLANS[0] - budget_of(config, PLANS[0]))
    echo(f"Each with host and fork server; a plan keeps its headroom free ({headroom} of {format_size(PLANS[0])}).")
    busiest = next(need for need in found if need.name == "expected")
    echo(f"expected: {', '.join(busiest.handlers) or 'none'}, taken to be active at a time; --expect A,B names others.")
    if left_out:
        echo(f"Left out of all sums: {', '.join(f'{name} ({state})' for name, state in left_out.items())}.")
    echo()
    for sentence in advice(config, limit, footprints, found):
        echo(f"- {sentence}")


def _as_json(
    config: Config,
    limit: MemoryLimit,
    findings: Sequence[Finding],
    footprints: Sequence[Footprint],
    found: Sequence[Need],
    left_out: Mapping[str, str],
) -> dict[str, Any]:
    return {
        "findings": [finding._asdict() for finding in findings],
        "limit": {"bytes": limit.bytes, "usable": limit.usable, "source": limit.source, "path": limit.path},
        "footprints": [one._asdict() for one in footprints],
        "left_out": dict(left_out),
        "needs": [need._asdict() | {"fits": [plan for plan in PLANS if need.fits(config, plan)]} for need in found],
        "advice": list(advice(config, limit, footprints, found)),
    }


def _footprint(
    config: Config,
    entry: CatalogEntry,
    measured: Mapping[str, Measured],
    learned: FootprintStore,
    host: remote_host.RunningHost | None,
) -> Footprint:
    policy = policy_of(config, entry)
    if entry.name in measured:
        size, seconds = measured[entry.name]
        return Footprint(entry.name, size, "measured", policy.pin, seconds)
    told = host.learned(entry) if host is not None else None
    if told is not None:
        return Footprint(entry.name, told[0], "learned", policy.pin, told[1])
    known = learned.get((entry.name, entry.distribution, entry.version))
    if known is not None and known.peak:
        return Footprint(entry.name, max(known.peak, known.raised), "learned", policy.pin, known.activate_seconds)
    if policy.memory_estimate is not None:
        return Footprint(entry.name, policy.memory_estimate, "estimated", policy.pin)
    return Footprint(entry.name, config.memory.default_estimate, "assumed", policy.pin)


def _expected(arguments: SimpleNamespace, footprints: Sequence[Footprint]) -> list[str]:
    if arguments.expect is None:
        return expected_of(footprints)
    names = [one.handler for one in footprints]
    wanted = [name.strip() for name in arguments.expect.split(",") if name.strip()]
    for name in wanted:
        if name not in names:
            raise Failure(f"--expect: there is no handler {name!r} that can run{did_you_mean(name, names)}", USAGE)
    return wanted


def _measure(arguments: SimpleNamespace, names: Sequence[str]) -> Iterator[tuple[str, Measured | Finding]]:
    """Activate each handler once, in a host of its own; yield what it took, or why it could not be."""
    token = secrets.token_urlsafe(24)
    environment = os.environ | {"HANDLER_HOST_ADMIN_TOKEN": token}
    file = arguments.config or os.environ.get("HANDLER_HOST_CONFIG")
    with own_host(environment, port=0, log_level="error", config=file) as url:
        client = Client(SimpleNamespace(url=url), token=token)
        for name in names:
            note(f"measuring {name} …")
            try:
                receipt = client.admin("POST", "handlers", name, "load")
                worker = client.admin("GET", "memory")["workers"][name]
                client.admin("POST", "handlers", name, "unload")
            except Failure as failure:
                yield name, Finding("problem", name, f"cannot be activated: {failure}")
                continue
            yield name, (worker["peak"] or worker["pss"], receipt["activate_seconds"])
