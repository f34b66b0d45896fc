"""Checks of a plugin's handlers: in a process of their own, and in a real worker."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from handler_host._internal.source_location import in_brackets
from handler_host._internal.units import format_size
from handler_host.catalog.catalog_entry import CatalogEntry
from handler_host.catalog.manifest import check_settings
from handler_host.channel.frames import WorkerSpec
from handler_host.cli.findings import Finding, Level, join_words
from handler_host.cli.package_check import DUMMY_SECRET
from handler_host.cli.progress import show_progress
from handler_host.plugin.errors import HostError
from handler_host.testing.probe import PROBE_TIMEOUT_S, ProbeReport, ProbeSpec
from handler_host.testing.processes import worker_under_test
from handler_host.testing.script import ProtocolName
from handler_host.testing.upstream import Upstream

CHAT = "chat"
CHAT_REQUEST: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
KILL_MARGIN_S = 30.0
"""Time beyond the probe's own limit after which it is killed: code of C can keep it from writing its report."""
MAX_REQUEST_LENGTH = 120
"""Characters that are shown of a request."""
ESTIMATE_TOLERANCE = 1.5
"""Factor by which the measured memory may differ from the manifest's estimate."""


def check_process(entry: CatalogEntry, protocol: ProtocolName | None, values: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what the handler does to its process: at import, on the event loop, and after its end.

    ``values`` are settings of the handler.
    """
    with ExitStack() as stack:
        settings = _settings(entry, {**_provider_settings(stack, protocol), **values})
        if isinstance(settings, Finding):
            yield settings
        data_dir = stack.enter_context(tempfile.TemporaryDirectory(prefix="handler-host-check-data-"))
        spec = WorkerSpec(
            handler=entry.name,
            entry_point=entry.entry_point,
            distribution=entry.distribution,
            version=entry.version,
            paths=(entry.root,),
            config={} if isinstance(settings, Finding) else settings,
            secrets=dict.fromkeys(entry.secrets, DUMMY_SECRET),
            data_dir=data_dir,
        )
        probe = ProbeSpec(spec=spec, requests={CHAT: CHAT_REQUEST}, only_import=isinstance(settings, Finding))
        with show_progress(f"calling {entry.name} in a process of its own"):
            outcome = _run_probe(entry.name, probe)
    if isinstance(outcome, Finding):
        yield outcome
    else:
        yield from _probe_findings(entry.name, outcome, only_import=probe.only_import)


def _run_probe(name: str, probe: ProbeSpec) -> ProbeReport | Finding:
    """Return the report of the probe, or the problem that it has ended without one."""
    command = [sys.executable, "-m", "handler_host.testing.probe"]
    timeout_s = PROBE_TIMEOUT_S + KILL_MARGIN_S
    try:
        process = subprocess.run(
            command, input=msgspec.json.encode(probe), capture_output=True, check=False, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        text = f"did not end within {timeout_s:g} s in a process of its own, and could not be interrupted"
        return Finding(Level.PROBLEM, name, text)
    lines = process.stdout.splitlines()
    if process.returncode or not lines:
        output = " / ".join(process.stderr.decode(errors="replace").strip().splitlines()[-3:])
        text = f"ended the process that checks it (exit status {process.returncode}): {output}"
        return Finding(Level.PROBLEM, name, text)
    return msgspec.json.decode(lines[-1], type=ProbeReport)


def _probe_findings(name: str, report: ProbeReport, *, only_import: bool) -> Iterator[Finding]:
    if report.is_importable:
        if report.step != "its import":
            yield _import_finding(name, report)
    elif only_import:  # else check_worker reports it
        yield Finding(Level.PROBLEM, name, str(report.error))
    if report.printed is not None:
        text = f"writes to standard output: {report.printed}; that becomes lines of the host's log, so use context.log"
        yield Finding(Level.WARNING, name, text)
    if report.step and report.error is None and not only_import:
        text = f"{report.step} did not end within {PROBE_TIMEOUT_S:g} s{in_brackets(report.stuck_at or '')}"
        yield Finding(Level.PROBLEM, name, text)
    if report.error is not None:
        return  # check_worker reports it
    for operation in report.tried:
        yield from _call_findings(name, operation, report)
    if report.blocked:
        longest = max(report.blocked)
        at = in_brackets(report.blocked_by or "")
        text = f"blocked its event loop for {longest:.2f} s{at}; use await, or asyncio.to_thread for blocking calls"
        yield Finding(Level.PROBLEM, name, text)
    for failure in report.close_failures:
        text = f"fails when it is stopped: {failure}; handle the error there, or the rest of the cleanup is skipped"
        yield Finding(Level.PROBLEM, name, text)
    if report.left_behind:
        text = f"leaves behind after deactivate: {', '.join(report.left_behind)}; close it with context.on_close"
        yield Finding(Level.WARNING, name, text)


def _call_findings(name: str, operation: str, report: ProbeReport) -> Iterator[Finding]:
    """Yield the failure of a call; a handler may refuse a request that was made from its schema."""
    error, request = report.tried[operation], report.made_up.get(operation)
    if error is None:
        return
    called = operation if request is None else f"{operation} with the made-up request {request[:MAX_REQUEST_LENGTH]}"
    if operation in report.faults:
        text = f"{called} failed: {error}; clients get status 500, so raise an error of handler_host.plugin.errors"
        yield Finding(Level.PROBLEM, name, text)
    elif request is not None:
        yield Finding(Level.NOTE, name, f"{called} failed: {error}")
    else:
        text = f"{called} failed: {error}; name the protocol of its provider: --protocol openai"
        yield Finding(Level.NOTE, name, text)


def _import_finding(name: str, report: ProbeReport) -> Finding:
    text = f"its module imports in {report.import_seconds:.2f} s ({report.modules} modules)"
    if report.opened_at_import:
        opened = ", ".join(report.opened_at_import)
        locations = ", ".join(f"{kind}: {location}" for kind, location in report.opened_by.items())
        at = f" ({locations})" if locations else ""
        return Finding(Level.PROBLEM, name, f"{text}, and opens {opened} at import{at}; do it in activate or later")
    return Finding(Level.OK, name, f"{text}, and opens nothing")


def check_worker(
    entry: CatalogEntry, site: Path, protocol: ProtocolName | None, values: Mapping[str, Any]
) -> Iterator[Finding]:
    """Yield whether the handler can be activated in a real worker, its memory, and its operations."""
    with ExitStack() as stack:
        settings = _settings(entry, {**_provider_settings(stack, protocol), **values})
        if isinstance(settings, Finding):
            return
        data_dir = stack.enter_context(tempfile.TemporaryDirectory(prefix="handler-host-check-data-"))
        worker = stack.enter_context(
            worker_under_test(
                entry.name,
                settings,
                secrets=dict.fromkeys(entry.secrets, DUMMY_SECRET),
                roots=(site,),
                include_sys_path=False,
                data_dir=Path(data_dir),
            )
        )
        try:
            with show_progress(f"activating {entry.name}"):
                receipt = worker.activate()
        except HostError as error:
            yield Finding(Level.PROBLEM, entry.name, f"activation failed: {error.message}")
            return
        except TimeoutError:
            yield Finding(Level.PROBLEM, entry.name, "activation failed: it did not end within activate_timeout")
            return
        pss = worker.pss()
    text = f"active after {receipt.activate_seconds:.2f} s with {format_size(pss)} (PSS)"
    yield Finding(Level.OK, entry.name, text)
    estimate = entry.manifest.memory_estimate if entry.manifest is not None else None
    if estimate is not None and not estimate / ESTIMATE_TOLERANCE < pss < estimate * ESTIMATE_TOLERANCE:
        text = f'its manifest estimates {format_size(estimate)}; write [memory] estimate = "{round(pss / 1024**2)}MB"'
        yield Finding(Level.WARNING, entry.name, text)
    if entry.manifest is not None and entry.manifest.operations is not None:
        declared = set(entry.manifest.operations)
        actual = {operation.name for operation in worker.status.operations or ()}
        if declared != actual:
            text = f"its manifest declares the operations {join_words(declared)}, but it has {join_words(actual)}"
            yield Finding(Level.PROBLEM, entry.name, text)


def _provider_settings(stack: ExitStack, protocol: ProtocolName | None) -> dict[str, Any]:
    """Return the settings that connect the handler to a scripted provider, if it has one."""
    if protocol is None:
        return {}
    return {"base_url": stack.enter_context(Upstream().run()).base_url(protocol)}


def _settings(entry: CatalogEntry, values: Mapping[str, Any]) -> dict[str, Any] | Finding:
    declared = entry.manifest.config if entry.manifest is not None else values
    try:
        return check_settings(
            entry.manifest, {key: value for key, value in values.items() if key in declared}, entry.name
        )
    except HostError as error:
        text = f"not activated: a setting without a default is not set here: {error.message} with --set KEY=VALUE"
        return Finding(Level.NOTE, entry.name, text)
