"""``handler-host check``: whether a plugin is fit for others, as a report card with remedies."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from handler_host.cli.failure import OK, REFUSED, USAGE, Failure
from handler_host.cli.package_check import Built, build, of_wheel, runnable
from handler_host.cli.render import echo, note, put_json
from handler_host.cli.report_card import Mark, Row
from handler_host.cli.worker_check import of_process, of_tests, of_worker

MARKS = {Mark.OK: "ok", Mark.NOTE: "note", Mark.WARNING: "WARNING", Mark.PROBLEM: "PROBLEM"}


def check(arguments: SimpleNamespace) -> int:
    """Run all checks; end with 1 if there is a problem."""
    path = Path(arguments.path)
    if not (path / "pyproject.toml").is_file():
        raise Failure(f"{path.absolute()} has no pyproject.toml: name the directory of a plugin's project", USAGE)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="handler-host-check-") as directory:
        for found in _rows(path, Path(directory), arguments):
            # The wheel's files are soon gone from there, and are the project's own.
            row = found._replace(text=found.text.replace(f"{Path(directory, 'site')}{os.sep}", ""))
            rows.append(row)
            if not arguments.json:
                echo(f"{MARKS[row.mark].ljust(8)} {row.place.ljust(16)}  {row.text}")
    problems = sum(row.mark is Mark.PROBLEM for row in rows)
    if arguments.json:
        put_json({"fit": not problems, "rows": [row.to_json() for row in rows]})
    else:
        echo()
        echo("fit for others" if not problems else f"{problems} problem{'s' if problems > 1 else ''}: not fit yet")
    return REFUSED if problems else OK


def _rows(path: Path, directory: Path, arguments: SimpleNamespace) -> Iterator[Row]:
    if not arguments.json:
        note("building the wheel …")
    outcome = build(path, directory, arguments.installer or ())
    if isinstance(outcome, Row):
        yield outcome
        return
    yield Row(Mark.OK, "wheel", f"{outcome.wheel.name} was built")
    yield from of_wheel(path, outcome)
    yield from _of_handlers(path, outcome, arguments)


def _of_handlers(path: Path, built: Built, arguments: SimpleNamespace) -> Iterator[Row]:
    entries = yield from runnable(built)
    for entry in entries:
        protocol = arguments.protocol
        yield from of_process(entry, protocol)
        yield from of_worker(entry, built.site, protocol)
    if entries:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(built.site), *_python_path()])}
        yield from of_tests(path, entries, environment)


def _python_path() -> list[str]:
    given = os.environ.get("PYTHONPATH")
    return [given] if given else []
