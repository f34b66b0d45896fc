"""Lean imports of the installed handlers: compiled here, or reported."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from handler_host.catalog.catalog_entry import CatalogEntry
from handler_host.cli.findings import Finding, Level
from handler_host.config import Config
from handler_host.workers.environment import worker_environment
from handler_host.workers.launch_spec import lean_imports_of, policy_of, python_of
from handler_host.workers.lean_compiler import LeanResult, lean_command, lean_input, lean_job, read_result


class LeanFailed(Exception):
    """The process that compiles packages, or reports on them, failed; the message has the end of its output."""


class LeanStatus(NamedTuple):
    """What is lean of one handler, and what is not."""

    handler: str
    result: LeanResult


def run_lean_job(config: Config, entry: CatalogEntry, *, compile: bool) -> LeanStatus | None:
    """Compile the packages of a handler, or report on them; None if its manifest lists none, or it is eager.

    Runs a process with the interpreter of its worker. Raises :class:`LeanFailed`.
    """
    policy = policy_of(config, entry)
    lean = lean_imports_of(config, policy, entry, os.environ)
    if lean is None:
        return None
    try:
        process = subprocess.Popen(
            lean_command(python_of(policy, entry)),
            env=worker_environment(os.environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        raise LeanFailed(f"{python_of(policy, entry)} cannot be started: {error.strerror}") from error
    with process:
        assert process.stdin is not None, "it is a pipe"
        assert process.stdout is not None, "it is a pipe"
        assert process.stderr is not None, "it is a pipe"
        # The process ends when its standard input closes.
        process.stdin.write(lean_input(lean_job(lean, entry.paths, compile=compile, is_background=False)))
        process.stdin.flush()
        result = read_result(process.stdout.read())
        errors = process.stderr.read().decode(errors="replace").strip().splitlines()
    if result is None:
        raise LeanFailed(f"exit status {process.returncode}: {errors[-1] if errors else 'no output'}")
    return LeanStatus(entry.name, result)


def lean_findings(config: Config, entries: Iterable[CatalogEntry]) -> Iterator[Finding]:
    """Yield for each handler which imports are lean, and why others are not."""
    for entry in entries:
        if entry.manifest is None or not entry.manifest.lean.packages:
            continue
        try:
            status = run_lean_job(config, entry, compile=False)
        except LeanFailed as error:
            yield Finding(Level.WARNING, entry.name, f"its imports cannot be checked: {error}")
            continue
        if status is None:
            policy = policy_of(config, entry)
            reason = 'lean = "off"' if policy.lean == "off" else f'isolation = "{policy.isolation}"'
            yield Finding(Level.NOTE, entry.name, f"all imports are eager ({reason})")
        else:
            yield _finding(config, entry.name, status.result)


def _finding(config: Config, handler: str, result: LeanResult) -> Finding:
    lean = f"lean imports of {', '.join(result.lean)}" if result.lean else ""
    if not result.eager:
        return Finding(Level.OK, handler, lean or "no package of its [lean] is installed")
    uncompiled = [name for name, reason in result.eager.items() if reason.startswith("not compiled")]
    reasons = [f"{name} ({reason})" for name, reason in result.eager.items() if name not in uncompiled]
    if uncompiled:
        remedy = (
            "the host compiles it after the first activation"
            if config.workers.compile_lean
            else f"run: handler-host compile {handler}"
        )
        reasons.append(f"{', '.join(uncompiled)} (not compiled; {remedy})")
    return Finding(Level.NOTE, handler, f"{lean}{'; ' if lean else ''}eager: {'; '.join(reasons)}")
