"""One request for each of several handlers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from handler_host.cli.failure import OK, UNREACHABLE, USAGE, Failure
from handler_host.cli.progress import show_progress
from handler_host.cli.render import echo_failure, echo_json_line


def request_each(
    names: Iterable[str], request: Callable[[str], Any], show: Callable[[Any], None], *, step: str, as_json: bool
) -> int:
    """Send a request for each handler and show its response; return the exit status.

    ``step`` names what the host does, for the progress: ``activating``.

    If the host refuses one, its error is printed and the next one is requested.
    Raises :class:`Failure` if the host cannot be reached.
    """
    status = OK
    for name in dict.fromkeys(names):
        try:
            with show_progress(f"{step} {name}"):
                response = request(name)
        except Failure as failure:
            if failure.status in (USAGE, UNREACHABLE):
                raise
            echo_failure(failure, as_json=as_json)
            status = failure.status
            continue
        if as_json:
            echo_json_line(response)
        else:
            show(response)
    return status
