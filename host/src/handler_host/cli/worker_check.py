"""Whether a plugin's handlers behave: in a process of their own, in a real worker, and by the author's tests."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from handler_host._internal.source_location import in_brackets
from handler_host._internal.units import format_size
from handler_host.catalog.catalog import CatalogEntry
from handler_host.catalog.manifest import check_settings
from handler_host.channel.frames import WorkerSpec
from handler_host.cli.package_check import A_SECRET
from handler_host.cli.report_card import Mark, Row
from handler_host.plugin.errors import HostError
from handler_host.testing.probe import Findings, Probe
from handler_host.testing.processes import worker_under_test
from handler_host.testing.script import ProtocolName
from handler_host.testing.upstream import Upstream

CHAT = "chat"
HI: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
TIME_LIMIT = 300
"""Seconds for a process of the checks."""
FAR_OFF = 1.5
"""A measured footprint of so many times the manifest's estimate, or the other way round, is worth a word."""


def of_process(entry: CatalogEntry, protocol: ProtocolName | None) -> Iterator[Row]:
    """Yield what the handler does to its process: at import, on the loop, and what it leaves behind."""
    with ExitStack() as stack:
        settings = _settings(entry, _provider(stack, protocol))
        if isinstance(settings, Row):
            yield settings
            return
        spec = WorkerSpec(
            handler=entry.name,
            entry_point=entry.entry_point,
            distribution=entry.distribution,
            version=entry.version,
            paths=(entry.root,),
            config=settings,
            secrets=dict.fromkeys(entry.secrets, A_SECRET),
        )
        probe = Probe(spec=spec, requests={CHAT: HI})
        done = subprocess.run(
            [sys.executable, "-m", "handler_host.testing.probe"],
            input=msgspec.json.encode(probe),
            capture_output=True,
            check=False,
            timeout=TIME_LIMIT,
        )
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        text = f"it ended the process that looked at it (exit status {done.returncode}): {' / '.join(said[-3:])}"
        yield Row(Mark.PROBLEM, entry.name, text)
        return
    yield from _of_findings(entry.name, msgspec.json.decode(lines[-1], type=Findings))


def _of_findings(name: str, found: Findings) -> Iterator[Row]:
    text = f"its module imports in {found.import_seconds:.2f} s ({found.modules} modules)"
    if found.opened_at_import:
        held = ", ".join(found.opened_at_import)
        places = ", ".join(f"{what}: {place}" for what, place in found.opened_by.items())
        by = f" ({places})" if places else ""
        yield Row(Mark.PROBLEM, name, f"{text}, and opens {held} at import{by}: do that in activate, or later")
    else:
        yield Row(Mark.OK, name, f"{text}, and opens nothing")
    if found.printed is not None:
        text = (
            f"it writes to standard output: {found.printed}; that ends in the host's log, line by line: use context.log"
        )
        yield Row(Mark.WARNING, name, text)
    if found.error is not None:
        return  # the worker's row says it
    for operation, error in found.tried.items():
        if operation in found.faults:
            remedy = "clients get 500: raise what handler_host.plugin.errors has"
            text = f"{operation} was tried, and failed: {error}; {remedy}"
            yield Row(Mark.PROBLEM, name, text)
        elif error is not None:
            text = f"{operation} was tried, and failed: {error}; name its provider's protocol: --protocol openai"
            yield Row(Mark.NOTE, name, text)
    if found.blocked:
        longest = max(found.blocked)
        by = in_brackets(found.blocked_by or "")
        text = f"it kept its event loop busy for {longest:.2f} s{by}: await, or use asyncio.to_thread for what blocks"
        yield Row(Mark.PROBLEM, name, text)
    if found.left_behind:
        text = f"after deactivate there is left: {', '.join(found.left_behind)}; close it with context.on_close"
        yield Row(Mark.WARNING, name, text)


def of_worker(entry: CatalogEntry, site: Path, protocol: ProtocolName | None) -> Iterator[Row]:
    """Yield what an activation in a real worker takes, and gives back."""
    with ExitStack() as stack:
        settings = _settings(entry, _provider(stack, protocol))
        if isinstance(settings, Row):
            return
        secrets = dict.fromkeys(entry.secrets, A_SECRET)
        worker = stack.enter_context(
            worker_under_test(entry.name, settings, secrets=secrets, roots=(site,), include_sys_path=False)
        )
        try:
            receipt = worker.activate()
        except HostError as error:
            yield Row(Mark.PROBLEM, entry.name, f"cannot be activated: {error.message}")
            return
        taken = worker.pss()
    text = f"is active after {receipt.activate_seconds:.2f} s, and takes {format_size(taken)} (PSS)"
    yield Row(Mark.OK, entry.name, text)
    estimate = entry.manifest.memory_estimate if entry.manifest is not None else None
    if estimate is not None and not estimate / FAR_OFF < taken < estimate * FAR_OFF:
        text = f'the manifest estimates {format_size(estimate)}: [memory] estimate = "{round(taken / 1024**2)}MB"'
        yield Row(Mark.WARNING, entry.name, text)
    if entry.manifest is not None and entry.manifest.operations is not None:
        declared = set(entry.manifest.operations)
        there = {operation.name for operation in worker.status.operations or ()}
        if declared != there:
            text = f"the manifest names the operations {_listed(declared)}, and it has {_listed(there)}"
            yield Row(Mark.PROBLEM, entry.name, text)


def of_tests(path: Path, entries: Sequence[CatalogEntry], environment: Mapping[str, str]) -> Iterator[Row]:
    """Yield how the author's own tests end, and whether a conformance class is among them."""
    try:
        from handler_host.testing.chat_conformance import ChatConformance
        from handler_host.testing.operations_conformance import OperationsConformance
    except ImportError:
        yield Row(Mark.NOTE, "tests", "not run: pip install 'handler-host[testing]'")
        return
    if not (path / "tests").is_dir():
        text = "there is no tests/: derive a class from handler_host.testing.ChatConformance or OperationsConformance"
        yield Row(Mark.WARNING, "tests", text)
        return
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", "tests"]
        done = subprocess.run(
            command, cwd=path, env=dict(environment), capture_output=True, text=True, check=False, timeout=TIME_LIMIT
        )
        if not report.exists():
            yield Row(Mark.PROBLEM, "tests", f"cannot be run: {' / '.join(done.stdout.strip().splitlines()[-3:])}")
            return
        # It was written by the pytest that was started here.
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))  # noqa: S314
    failed = [
        case.get("name", "") for case in cases if case.find("failure") is not None or case.find("error") is not None
    ]
    if failed:
        yield Row(Mark.PROBLEM, "tests", f"{len(failed)} of {len(cases)} fail: {_listed(failed[:5])}; run: pytest")
    else:
        yield Row(Mark.OK, "tests", f"{len(cases)} tests pass")
    names = {case.get("name", "").partition("[")[0] for case in cases}
    kinds = [kind for kind in (ChatConformance, OperationsConformance) if names & _tests_of(kind)]
    if kinds:
        yield Row(Mark.OK, "tests", f"{_listed(kind.__name__ for kind in kinds)} is among them")
    else:
        of_what = ", ".join(entry.name for entry in entries)
        text = f"no conformance class is among them: derive one from handler_host.testing.ChatConformance for {of_what}"
        yield Row(Mark.WARNING, "tests", text)


def _tests_of(kind: type) -> set[str]:
    return {name for base in kind.__mro__ for name in vars(base) if name.startswith("test_")}


def _provider(stack: ExitStack, protocol: ProtocolName | None) -> dict[str, Any]:
    """Return the settings that point the handler at a scripted provider, if it has one."""
    if protocol is None:
        return {}
    return {"base_url": stack.enter_context(Upstream().running()).base_url(protocol)}


def _settings(entry: CatalogEntry, given: Mapping[str, Any]) -> dict[str, Any] | Row:
    known = entry.manifest.config if entry.manifest is not None else given
    try:
        return check_settings(entry.manifest, {key: value for key, value in given.items() if key in known}, entry.name)
    except HostError as error:
        text = f"it has settings without defaults, which nobody gives here: {error.message}"
        return Row(Mark.NOTE, entry.name, text)


def _listed(words: Any) -> str:
    return ", ".join(sorted(words)) or "none"
