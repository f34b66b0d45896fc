"""Checks of a plugin's handlers: in a process of their own, in a real worker, and with the author's tests."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from handler_host._internal.source_location import in_brackets
from handler_host._internal.units import format_size
from handler_host.catalog.catalog_entry import CatalogEntry
from handler_host.catalog.manifest import check_settings
from handler_host.channel.frames import WorkerSpec
from handler_host.cli.findings import Finding, Level
from handler_host.cli.package_check import DUMMY_SECRET
from handler_host.cli.progress import show_progress
from handler_host.plugin.errors import HostError
from handler_host.testing.probe import ProbeReport, ProbeSpec
from handler_host.testing.processes import worker_under_test
from handler_host.testing.script import ProtocolName
from handler_host.testing.upstream import Upstream

CHAT = "chat"
CHAT_REQUEST: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
PROCESS_TIMEOUT_S = 300
ESTIMATE_TOLERANCE = 1.5
"""Factor by which the measured memory may differ from the manifest's estimate."""


def check_process(entry: CatalogEntry, protocol: ProtocolName | None) -> Iterator[Finding]:
    """Yield what the handler does to its process: at import, on the event loop, and after its end."""
    with ExitStack() as stack:
        settings = _settings(entry, _provider_settings(stack, protocol))
        if isinstance(settings, Finding):
            yield settings
            return
        spec = WorkerSpec(
            handler=entry.name,
            entry_point=entry.entry_point,
            distribution=entry.distribution,
            version=entry.version,
            paths=(entry.root,),
            config=settings,
            secrets=dict.fromkeys(entry.secrets, DUMMY_SECRET),
        )
        probe = ProbeSpec(spec=spec, requests={CHAT: CHAT_REQUEST})
        with show_progress(f"calling {entry.name} in a process of its own"):
            process = subprocess.run(
                [sys.executable, "-m", "handler_host.testing.probe"],
                input=msgspec.json.encode(probe),
                capture_output=True,
                check=False,
                timeout=PROCESS_TIMEOUT_S,
            )
    lines = process.stdout.splitlines()
    if process.returncode or not lines:
        output = " / ".join(process.stderr.decode(errors="replace").strip().splitlines()[-3:])
        text = f"ended the process that checks it (exit status {process.returncode}): {output}"
        yield Finding(Level.PROBLEM, entry.name, text)
        return
    yield from _probe_findings(entry.name, msgspec.json.decode(lines[-1], type=ProbeReport))


def _probe_findings(name: str, report: ProbeReport) -> Iterator[Finding]:
    if report.is_importable:  # else check_worker reports it
        yield _import_finding(name, report)
    if report.printed is not None:
        text = f"writes to standard output: {report.printed}; that becomes lines of the host's log, so use context.log"
        yield Finding(Level.WARNING, name, text)
    if report.error is not None:
        return  # check_worker reports it
    for operation, error in report.tried.items():
        if operation in report.faults:
            text = (
                f"{operation} failed: {error}; clients get status 500, so raise an error of handler_host.plugin.errors"
            )
            yield Finding(Level.PROBLEM, name, text)
        elif error is not None:
            text = f"{operation} failed: {error}; name the protocol of its provider: --protocol openai"
            yield Finding(Level.NOTE, name, text)
    if report.blocked:
        longest = max(report.blocked)
        at = in_brackets(report.blocked_by or "")
        text = f"blocked its event loop for {longest:.2f} s{at}; use await, or asyncio.to_thread for blocking calls"
        yield Finding(Level.PROBLEM, name, text)
    if report.left_behind:
        text = f"leaves behind after deactivate: {', '.join(report.left_behind)}; close it with context.on_close"
        yield Finding(Level.WARNING, name, text)


def _import_finding(name: str, report: ProbeReport) -> Finding:
    text = f"its module imports in {report.import_seconds:.2f} s ({report.modules} modules)"
    if report.opened_at_import:
        opened = ", ".join(report.opened_at_import)
        locations = ", ".join(f"{kind}: {location}" for kind, location in report.opened_by.items())
        at = f" ({locations})" if locations else ""
        return Finding(Level.PROBLEM, name, f"{text}, and opens {opened} at import{at}; do it in activate or later")
    return Finding(Level.OK, name, f"{text}, and opens nothing")


def check_worker(entry: CatalogEntry, site: Path, protocol: ProtocolName | None) -> Iterator[Finding]:
    """Yield whether the handler can be activated in a real worker, its memory, and its operations."""
    with ExitStack() as stack:
        settings = _settings(entry, _provider_settings(stack, protocol))
        if isinstance(settings, Finding):
            return
        secrets = dict.fromkeys(entry.secrets, DUMMY_SECRET)
        worker = stack.enter_context(
            worker_under_test(entry.name, settings, secrets=secrets, roots=(site,), include_sys_path=False)
        )
        try:
            with show_progress(f"activating {entry.name}"):
                receipt = worker.activate()
        except HostError as error:
            yield Finding(Level.PROBLEM, entry.name, f"activation failed: {error.message}")
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
            text = f"its manifest declares the operations {_listed(declared)}, but it has {_listed(actual)}"
            yield Finding(Level.PROBLEM, entry.name, text)


def check_tests(path: Path, entries: Sequence[CatalogEntry], environment: Mapping[str, str]) -> Iterator[Finding]:
    """Yield the result of the author's tests, and whether they include a conformance class."""
    try:
        from handler_host.testing.chat_conformance import ChatConformance
        from handler_host.testing.operations_conformance import OperationsConformance
    except ImportError:
        yield Finding(Level.NOTE, "tests", "not run: pip install 'handler-host[testing]'")
        return
    if not (path / "tests").is_dir():
        text = "no directory tests/; base a test class on handler_host.testing.ChatConformance or OperationsConformance"
        yield Finding(Level.WARNING, "tests", text)
        return
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", "tests"]
        with show_progress("running the tests of the project"):
            process = subprocess.run(
                command,
                cwd=path,
                env=dict(environment),
                capture_output=True,
                text=True,
                check=False,
                timeout=PROCESS_TIMEOUT_S,
            )
        if not report.exists():
            output = " / ".join(process.stdout.strip().splitlines()[-3:])
            yield Finding(Level.PROBLEM, "tests", f"pytest failed: {output}")
            return
        # The file is safe to parse: the pytest process above wrote it.
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))  # noqa: S314
    failed = [
        case.get("name", "") for case in cases if case.find("failure") is not None or case.find("error") is not None
    ]
    if failed:
        text = f"{len(failed)} of {len(cases)} tests fail: {_listed(failed[:5])}; run: pytest"
        yield Finding(Level.PROBLEM, "tests", text)
    else:
        yield Finding(Level.OK, "tests", f"{len(cases)} tests pass")
    names = {case.get("name", "").partition("[")[0] for case in cases}
    kinds = [kind for kind in (ChatConformance, OperationsConformance) if names & _test_names(kind)]
    if kinds:
        yield Finding(Level.OK, "tests", f"include {_listed(kind.__name__ for kind in kinds)}")
    else:
        handlers = ", ".join(entry.name for entry in entries)
        text = f"include no conformance class; base one on handler_host.testing.ChatConformance for {handlers}"
        yield Finding(Level.WARNING, "tests", text)


def _test_names(kind: type) -> set[str]:
    return {name for base in kind.__mro__ for name in vars(base) if name.startswith("test_")}


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
        text = f"not activated: a setting without a default is not set here: {error.message}"
        return Finding(Level.NOTE, entry.name, text)


def _listed(words: Iterable[str]) -> str:
    return ", ".join(sorted(words)) or "none"
