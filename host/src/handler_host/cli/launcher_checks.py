"""The findings of ``handler-host doctor`` about launchers of workers on other machines."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from handler_host.cli.findings import Finding, Level
from handler_host.cli.progress import show_progress
from handler_host.config.launchers import launcher_config, launcher_options

NOT_INSTALLED = "No module named 'handler_host'"


class _EngineFinding(msgspec.Struct):
    """A finding as the engine reports it."""

    ok: bool
    text: str


def _decode(result: subprocess.CompletedProcess[bytes], place: str) -> list[_EngineFinding]:
    """Return the findings that a driver has printed as its last line, or its failure as the one finding."""
    try:
        return msgspec.json.decode(result.stdout.splitlines()[-1], type=list[_EngineFinding])
    except (IndexError, msgspec.DecodeError):
        last = result.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
        text = f"its driver failed: {last[0]}"
        if NOT_INSTALLED in last[0]:
            text += f"; install handler-host and the launcher there, or correct {place}.python"
        return [_EngineFinding(False, text)]


def check_launchers(launchers: Mapping[str, dict[str, Any]]) -> Iterator[Finding]:
    """Connect to the engine of each launcher, given the keys of its table, and yield what it finds."""
    for name, keys in launchers.items():
        place = f"launchers.{name}"
        settings = launcher_config(keys)
        command = [str(settings.python or sys.executable), "-P", "-m", "handler_host.workers.remote.driver"]
        try:
            with show_progress(f"connecting to the engine of {name}"):
                result = subprocess.run(
                    [*command, "--examine", name],
                    input=launcher_options(keys),
                    capture_output=True,
                    timeout=settings.start_timeout,
                    env=os.environ,
                    check=False,
                )
            findings = _decode(result, place)
        except OSError as error:
            yield Finding(
                Level.PROBLEM, place, f"{command[0]!r} cannot be started: {error.strerror}; correct {place}.python"
            )
        except subprocess.TimeoutExpired:
            text = f"no connection within {settings.start_timeout:g} s (start_timeout); start its engine, or raise that"
            yield Finding(Level.PROBLEM, place, text)
        else:
            for finding in findings:
                yield Finding(Level.OK if finding.ok else Level.PROBLEM, place, finding.text)
