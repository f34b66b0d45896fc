"""The last lines of a worker's log."""

from __future__ import annotations

import io
import logging

from handler_host._internal.log import HANDLERS, TextFormatter
from handler_host.telemetry.log_tail import LogTail


class CountedText:
    """Figure that counts how often it is formatted."""

    def __init__(self) -> None:
        self.formatted = 0

    def __str__(self) -> str:
        self.formatted += 1
        return "counted"


def test_line_is_formatted_once_for_log_and_dashboard() -> None:
    """A worker may log a thousand lines a second; formatting is most of their cost."""
    stream, tail, figure = logging.StreamHandler(io.StringIO()), LogTail(), CountedText()
    stream.setFormatter(TextFormatter())
    fields = {"name": HANDLERS + "echo", "msg": "started", "fields": {"figure": figure}}
    record = logging.makeLogRecord(fields)
    tail.handle(record)
    stream.handle(record)
    assert stream.stream.getvalue() == tail.lines("echo")[0] + "\n"
    assert tail.lines("echo")[0].endswith("handler.echo started figure=counted")
    assert figure.formatted == 1
