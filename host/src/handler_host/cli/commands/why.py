"""``handler-host why``."""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any

from handler_host.cli.failure import OK
from handler_host.cli.options import add_host_options
from handler_host.cli.render import echo, echo_fields, echo_json, echo_table, note

DESCRIPTION = (
    "Clients get the request ID in the header X-Request-ID and in each error. why shows what the host knows of that "
    "request: the error, the provider's words and address, each attempt, and the times. Without an ID it lists the "
    "last failures. The host keeps the last 200 failures and 200 refusals in memory until it ends."
)
EXAMPLES = (
    "handler-host why 74d72293d54e-5",
    "handler-host why",
    "handler-host why --handler gpt_a --last 5",
)
LISTED = 20
"""Failures that are listed by default."""
WORDS = 80
"""Characters of a message in the list."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("request", nargs="?", metavar="REQUEST_ID", help="the failed request (default: list the last)")
    parser.add_argument("--handler", metavar="HANDLER", help="list only failures of this handler")
    parser.add_argument("--last", metavar="N", type=int, default=LISTED, help=f"failures to list (default: {LISTED})")
    add_host_options(parser)


def run(arguments: SimpleNamespace) -> int:
    """Print the failures of one request, or the last failures of all."""
    from handler_host.cli.client import Client

    client = Client.from_arguments(arguments)
    if arguments.request is not None:
        response = client.call_admin("GET", "failures", arguments.request)
        if arguments.json:
            echo_json(response)
            return OK
        for failure in response["failures"]:
            _echo_failure(failure)
        return OK
    query = {"limit": arguments.last} | ({"handler": arguments.handler} if arguments.handler else {})
    response = client.call_admin("GET", "failures", **query)
    if arguments.json:
        echo_json(response)
        return OK
    rows = [
        (
            failure["at"][11:19],
            failure["request_id"],
            str(failure["status"]),
            failure["code"],
            failure["handler"] or "-",
            failure["consumer"] or "-",
            shorten(failure["message"]),
        )
        for failure in response["failures"]
    ]
    columns = ("TIME", "REQUEST", "STATUS", "CODE", "HANDLER", "CONSUMER", "MESSAGE")
    echo_table(columns, rows, left=("TIME", "REQUEST", "CODE", "HANDLER", "CONSUMER", "MESSAGE"))
    if not rows:
        note("no failed requests since the host's start")
    return OK


def shorten(message: str) -> str:
    """Return the start of a message, for a table."""
    return message if len(message) <= WORDS else message[: WORDS - 1] + "…"


def _echo_failure(failure: dict[str, Any]) -> None:
    attempts = [
        f"{handler}: {code} ({message})" + (f"; {cause}" if cause else "")
        for code, _, message, cause, handler in failure["attempts"]
    ]
    fields = {
        "request": failure["request_id"],
        "at": failure["at"],
        "error": f"{failure['code']} (status {failure['status']})",
        "message": failure["message"],
        "cause": failure["cause"] or "",
        "handler": failure["handler"] or "",
        "model": failure["model"] or "",
        "route": f"{failure['method']} {failure['route']} ({failure['protocol']})",
        "consumer": failure["consumer"] or "",
        "client": failure["client"],
        "times": ", ".join(
            f"{name} {failure[key]:.3f} s"
            for name, key in (
                ("queue", "queue_s"),
                ("activation", "activate_s"),
                ("first chunk", "first_chunk_s"),
                ("total", "total_s"),
            )
            if failure[key] is not None
        ),
    }
    if len(attempts) > 1:
        fields |= {f"attempt {number}": text for number, text in enumerate(attempts, 1)}
    echo_fields(fields)
    echo()
