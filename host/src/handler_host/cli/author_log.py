"""The log of ``dev``: what the author's handlers log and print, without the lines for operators."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection, Iterable
from typing import Any

ACTIVATION = "activation"
"""Logger inside a worker of a failed activation, which the reload reports as well."""

ASYNCIO = "asyncio"
"""Logger of the event loop's debug mode, which ``dev`` sets."""
SLOW_STEP = re.compile(r"Executing <Task .*\bcoro=<OperationRunner\._run\(\).* took ([\d.]+) seconds")
"""Its message of an operation that did not let the loop run."""
MIN_BLOCKED_S = 0.5
"""Shorter steps are not reported: a busy machine causes them, too."""


def print_author_log(lines: Iterable[str], handlers: Collection[str], print_line: Callable[[str], None]) -> None:
    """Print the lines of a host's JSON log that concern the author of these handlers, until the log ends."""
    blocking: set[str] = set()
    for line in lines:
        text = _author_line(line.rstrip("\n"), handlers, blocking)
        if text is not None:
            print_line(text)


def _author_line(line: str, handlers: Collection[str], blocking: set[str]) -> str | None:
    """Return what the author sees of a line; ``blocking`` has the handlers of which a blocked loop was reported."""
    try:
        record = json.loads(line)
        level, logger, event = str(record["level"]).upper(), str(record["logger"]), str(record["event"])
    except (ValueError, KeyError, TypeError):
        return line  # not of the log: a message before its setup
    if record.get("handler") in handlers and event == "cannot run":
        return f"{record['handler']} cannot run: {record.get('reason')}"
    if "traceback" in record:
        event = f"{event}\n{record['traceback']}"
    severity = logging.getLevelNamesMapping().get(level, logging.ERROR)
    if _is_of_handler(record, handlers):
        if logger == ACTIVATION:
            return None
        if logger == ASYNCIO and severity < logging.ERROR:
            return _blocked_line(record["handler"], event, blocking)
        mark = f" {level}" if severity > logging.INFO else ""
        return f"{record['handler']}{mark}: {event.rstrip()}"
    return f"host {level}: {event}" if severity >= logging.ERROR else None


def _blocked_line(handler: str, event: str, blocking: set[str]) -> str | None:
    step = SLOW_STEP.match(event)
    if step is None or float(step[1]) < MIN_BLOCKED_S or handler in blocking:
        return None
    blocking.add(handler)
    return (
        f"{handler} WARNING: it blocked the event loop for {float(step[1]):.1f} s, and no other request ran; await, or "
        "use asyncio.to_thread (`handler-host check` names the line)"
    )


def _is_of_handler(record: dict[str, Any], handlers: Collection[str]) -> bool:
    # The field `logger` of a worker's record replaces the name of the host's logger.
    return record.get("handler") in handlers and not str(record["logger"]).startswith("handler_host.")
