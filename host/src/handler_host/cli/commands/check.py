"""``handler-host check``."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from handler_host.cli.failure import OK, REFUSED, USAGE, Failure
from handler_host.cli.findings import Finding, Level, echo_finding, has_problem
from handler_host.cli.render import echo, echo_json

if TYPE_CHECKING:
    from handler_host.cli.package_check import BuiltWheel

DESCRIPTION = (
    "Builds the wheel, finds its handlers as the host does, watches what they do to their process, activates them "
    "in a real worker, and runs the tests of the project. The exit status is 1 if there is a problem. Each operation "
    "is called twice, with a request made from its schema and with made-up secrets, in an empty data directory. With "
    "--protocol the handler's base_url is a scripted provider with this protocol, so that chat can be called."
)
EXAMPLES = (
    "handler-host check .",
    "handler-host check plugins/gpt_a --protocol openai",
    "handler-host check . --json | jq '.rows[] | select(.mark != \"ok\")'",
)
PLACE_WIDTH = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "path", nargs="?", default=".", metavar="PATH", help="project of the plugin (default: this directory)"
    )
    parser.add_argument("--protocol", choices=("openai", "anthropic", "gemini"), help="protocol of its provider")
    parser.add_argument("--installer", action="append", metavar="OPTION", help="option for `pip wheel`")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="setting of its handlers, as in [handlers.NAME]; may be repeated",
    )
    parser.add_argument(
        "--test-timeout",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="longest time of one test of the project (default: 120)",
    )
    parser.add_argument(
        "--lean", action="store_true", help="check that the packages of [lean] may be lean in their installed versions"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: SimpleNamespace) -> int:
    """Run all checks and print a finding for each; return 1 if there is a problem."""
    path = Path(arguments.path)
    if not (path / "pyproject.toml").is_file():
        raise Failure(f"{path.absolute()} has no pyproject.toml; name the directory of a plugin's project", USAGE)
    values = dict(map(_parse_setting, arguments.set))
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory(prefix="handler-host-check-") as directory:
        for finding in _findings(path, Path(directory), arguments, values):
            # The unpacked wheel is deleted at the end; its relative paths are those of the project.
            finding = finding._replace(text=finding.text.replace(f"{Path(directory, 'site')}{os.sep}", ""))
            findings.append(finding)
            if not arguments.json:
                echo_finding(finding, width=PLACE_WIDTH)
    is_fit = not has_problem(findings)
    if arguments.json:
        rows = [{"mark": finding.level, "place": finding.place, "text": finding.text} for finding in findings]
        echo_json({"fit": is_fit, "rows": rows})
    else:
        count = sum(finding.level is Level.PROBLEM for finding in findings)
        echo()
        echo("ready for other people" if is_fit else f"{count} problem{'s' if count > 1 else ''}: not ready yet")
    return OK if is_fit else REFUSED


def _parse_setting(text: str) -> tuple[str, Any]:
    """Return the key and the value of ``KEY=VALUE``; a value that is not TOML is a text."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise Failure(f"--set {text}: not KEY=VALUE", USAGE)
    import tomllib

    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        return key.strip(), value


def _findings(path: Path, directory: Path, arguments: SimpleNamespace, values: Mapping[str, Any]) -> Iterator[Finding]:
    from handler_host.cli.package_check import build_wheel, check_wheel
    from handler_host.cli.progress import show_progress

    with show_progress("building the wheel"):
        outcome = build_wheel(path, directory, arguments.installer or ())
    if isinstance(outcome, Finding):
        yield outcome
        return
    yield Finding(Level.OK, "wheel", f"built {outcome.wheel.name}")
    yield from _guarded("wheel", check_wheel(path, outcome))
    yield from _handler_findings(path, outcome, arguments, values)


def _handler_findings(
    path: Path, built: BuiltWheel, arguments: SimpleNamespace, values: Mapping[str, Any]
) -> Iterator[Finding]:
    from handler_host.cli.package_check import check_discovery, check_names, check_requirements
    from handler_host.cli.plugin_tests import check_tests
    from handler_host.cli.worker_check import check_process, check_worker

    entries = yield from check_discovery(built)
    yield from _guarded("wheel", check_requirements(built))
    yield from _guarded("discovery", check_names(entries))
    for entry in entries:
        yield from _guarded(entry.name, check_process(entry, arguments.protocol, values))
        yield from _guarded(entry.name, check_worker(entry, built.site, arguments.protocol, values))
        if arguments.lean:
            from handler_host.cli.lean_check import check_lean

            yield from _guarded(entry.name, check_lean(entry))
    if entries:
        python_path = filter(None, [str(built.site), os.environ.get("PYTHONPATH")])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(python_path)}
        yield from _guarded("tests", check_tests(path, entries, environment, arguments.test_timeout))


def _guarded(place: str, findings: Iterator[Finding]) -> Iterator[Finding]:
    """Yield the findings of one check; its own failure is a finding, so that the later checks still run."""
    try:
        yield from findings
    except Exception as error:  # noqa: BLE001 - whatever a plugin causes must not lose the other results
        text = f"this check failed itself: {type(error).__name__}: {error}; please report it"
        yield Finding(Level.PROBLEM, place, text)
