"""The report of ``handler-host doctor``: findings, and the memory plan."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec

from handler_host._internal.suggestions import did_you_mean
from handler_host._internal.units import format_size
from handler_host.catalog.catalog import scan_config
from handler_host.catalog.catalog_entry import CatalogEntry
from handler_host.cli import installation
from handler_host.cli.client import Client
from handler_host.cli.dependencies import check_dependencies
from handler_host.cli.failure import OK, REFUSED, USAGE, Failure
from handler_host.cli.findings import Finding, Level, echo_findings, has_problem
from handler_host.cli.launcher_checks import check_launchers
from handler_host.cli.lean_packages import lean_findings
from handler_host.cli.local_host import run_local_host
from handler_host.cli.memory_plan import (
    PLAN_SIZES,
    Footprint,
    Need,
    advise,
    compute_needs,
    default_expected,
    usable_bytes,
)
from handler_host.cli.options import config_file, load_configuration
from handler_host.cli.progress import show_progress
from handler_host.cli.remote_host import RemoteHost, query_remote_host
from handler_host.cli.render import echo, echo_json, echo_table, show_size
from handler_host.cli.shared_check import check_shared
from handler_host.config import Config, with_state_file
from handler_host.memory.cgroups import MemoryLimit, read_limit
from handler_host.memory.footprints import FootprintStore, version_of
from handler_host.workers.launch_spec import policy_of


class Measurement(NamedTuple):
    """What an activation took."""

    pss: int
    """In bytes."""
    seconds: float


class Plan(NamedTuple):
    """The memory plan, and what it is made from."""

    config: Config
    limit: MemoryLimit
    footprints: Sequence[Footprint]
    needs: Sequence[Need]
    excluded: Mapping[str, str]
    """Handlers that cannot run, with their state."""

    def advice(self) -> list[str]:
        """Return what to change, as sentences."""
        return list(advise(self.config, self.limit, self.footprints, self.needs))


def diagnose(arguments: SimpleNamespace) -> int:
    """Print the findings and the plan; return 1 if there is a problem."""
    config = with_state_file(load_configuration(arguments).config, os.environ)
    if arguments.launcher is not None:
        return _diagnose_launcher(config, arguments.launcher, as_json=arguments.json)
    catalog = scan_config(config, os.environ)
    limit = read_limit(config.memory)
    host, query = query_remote_host(arguments.url, arguments.token_file)
    entries = {
        name: host.without_local_problem(entry) if host is not None else entry
        for name, entry in catalog.entries.items()
    }
    learned = FootprintStore(config.memory.state_file)
    learned.load()
    findings = [
        *installation.describe_scope(config_file(arguments), learned.path),
        query,
        *installation.check_machine(limit),
        *installation.check_control_groups(config),
        *installation.check_confinement(config),
        *installation.check_access(config, catalog.entries),
        *installation.check_files(config),
        *installation.check_handlers(msgspec.structs.replace(catalog, entries=entries)),
        *installation.check_settings(config, catalog.entries),
        *check_dependencies(catalog.entries.values()),
        *check_launchers(config.launchers),
        *check_shared(config),
    ]
    runnable = {name: entry for name, entry in entries.items() if entry.problem is None}
    findings += lean_findings(config, runnable.values())
    measurements: dict[str, Measurement] = {}
    if arguments.measure:
        # The temporary host has only the secrets of this shell, whatever the running host has.
        local = [name for name in runnable if catalog.entries[name].problem is None]
        for name, result in _measure(config_file(arguments), local):
            if isinstance(result, Finding):
                findings.append(result)
            else:
                measurements[name] = result
    footprints = [_footprint(config, entry, measurements, learned, host) for entry in runnable.values()]
    plan = Plan(
        config=config,
        limit=limit,
        footprints=footprints,
        needs=compute_needs(footprints, _expected(arguments.expect, footprints)),
        excluded={name: entry.problem.state for name, entry in entries.items() if entry.problem is not None},
    )
    if arguments.json:
        echo_json(_to_json(findings, plan))
    else:
        echo_findings(findings)
        echo()
        _echo_plan(plan)
    return REFUSED if has_problem(findings) else OK


def _diagnose_launcher(config: Config, name: str, *, as_json: bool) -> int:
    """Print the findings about one launcher; return 1 if there is a problem."""
    if name not in config.launchers:
        hint = did_you_mean(name, config.launchers)
        raise Failure(f"no launcher {name!r} is configured{hint}; add [launchers.{name}] to the configuration", USAGE)
    findings = list(check_launchers({name: config.launchers[name]}))
    if as_json:
        echo_json({"findings": [finding._asdict() for finding in findings]})
    else:
        echo_findings(findings)
    return REFUSED if has_problem(findings) else OK


def _echo_plan(plan: Plan) -> None:
    source = {footprint.handler: footprint.known for footprint in plan.footprints}
    cold_starts = {
        footprint.handler: f"{footprint.activate_seconds:.2f} s"
        for footprint in plan.footprints
        if footprint.activate_seconds is not None
    }
    last = ("COLD START",) if cold_starts else ()
    columns = ("NEED", "MEMORY", *(format_size(size) for size in PLAN_SIZES), "KNOWN", *last)
    rows = [
        (
            need.name if need.name in source else f"{need.name} ({len(need.handlers)})",
            show_size(need.bytes),
            *("fits" if need.fits(plan.config, size) else "no" for size in PLAN_SIZES),
            source.get(need.name, ""),
            *(cold_starts.get(need.name, "") for _ in last),
        )
        for need in plan.needs
    ]
    echo_table(columns, rows, left=("NEED", "KNOWN"))
    headroom = format_size(PLAN_SIZES[0] - usable_bytes(plan.config, PLAN_SIZES[0]))
    echo(f"Each need includes host and fork server. The headroom stays free ({headroom} of {columns[2]}).")
    busy = next(need for need in plan.needs if need.name == "expected")
    echo(f"expected: {', '.join(busy.handlers) or 'none'} active at the same time; --expect A,B names others.")
    if plan.excluded:
        excluded = ", ".join(f"{name} ({state})" for name, state in plan.excluded.items())
        echo(f"Not included: {excluded}.")
    echo()
    for sentence in plan.advice():
        echo(f"- {sentence}")


def _to_json(findings: Sequence[Finding], plan: Plan) -> dict[str, Any]:
    limit = plan.limit
    return {
        "findings": [finding._asdict() for finding in findings],
        "limit": {"bytes": limit.bytes, "usable": limit.usable, "source": limit.source, "path": limit.path},
        "footprints": [footprint._asdict() for footprint in plan.footprints],
        "left_out": dict(plan.excluded),
        "needs": [
            need._asdict() | {"fits": [size for size in PLAN_SIZES if need.fits(plan.config, size)]}
            for need in plan.needs
        ],
        "advice": plan.advice(),
    }


def _footprint(
    config: Config,
    entry: CatalogEntry,
    measurements: Mapping[str, Measurement],
    learned: FootprintStore,
    host: RemoteHost | None,
) -> Footprint:
    """Return a handler's footprint from the best source: measured, learned, estimated, or assumed."""
    policy = policy_of(config, entry)
    if entry.name in measurements:
        measurement = measurements[entry.name]
        return Footprint(entry.name, measurement.pss, "measured", policy.pin, measurement.seconds)
    remote = host.footprint(entry) if host is not None else None
    if remote is not None:
        return Footprint(entry.name, remote[0], "learned", policy.pin, remote[1])
    local = learned.get(version_of(entry))
    if local is not None and local.peak:
        return Footprint(entry.name, max(local.peak, local.raised), "learned", policy.pin, local.activate_seconds)
    if policy.memory_estimate is not None:
        return Footprint(entry.name, policy.memory_estimate, "estimated", policy.pin)
    return Footprint(entry.name, config.memory.default_estimate, "assumed", policy.pin)


def _expected(option: str | None, footprints: Sequence[Footprint]) -> list[str]:
    if option is None:
        return default_expected(footprints)
    names = [footprint.handler for footprint in footprints]
    expected = [name.strip() for name in option.split(",") if name.strip()]
    for name in expected:
        if name not in names:
            raise Failure(f"--expect: no handler {name!r} that can run{did_you_mean(name, names)}", USAGE)
    return expected


def _measure(file: str | None, names: Sequence[str]) -> Iterator[tuple[str, Measurement | Finding]]:
    """Activate each handler once in a temporary host; yield what it took, or why it failed."""
    token = secrets.token_urlsafe(24)
    environment = os.environ | {"HANDLER_HOST_ADMIN_TOKEN": token}
    with run_local_host(environment, port=0, log_level="error", config=file) as url:
        client = Client(url, token=token)
        for name in names:
            try:
                with show_progress(f"measuring {name}"):
                    receipt = client.call_admin("POST", "handlers", name, "load")
                    worker = client.call_admin("GET", "memory")["workers"][name]
                    client.call_admin("POST", "handlers", name, "unload")
            except Failure as failure:
                yield name, Finding(Level.PROBLEM, name, f"activation failed: {failure}")
                continue
            yield name, Measurement(worker["peak"] or worker["pss"], receipt["activate_seconds"])
