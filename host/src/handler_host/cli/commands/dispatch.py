"""``handler-host dispatch``."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from handler_host.cli.failure import OK, USAGE, Failure
from handler_host.cli.options import add_host_options
from handler_host.cli.render import echo, echo_json, note

if TYPE_CHECKING:
    from handler_host.cli.client import Client

DESCRIPTION = (
    "The words after OPERATION are the request: a JSON document, @FILE, or - for standard input; or the fields of "
    "an object, as --field value, --field (true) or field=value. A value is read as JSON if it is valid JSON, "
    "otherwise as text; quote a text that looks like JSON ('\"42\"'). A repeated field becomes a list. Write the "
    "options of this command before HANDLER; only --stream may also come after it."
)
EXAMPLES = (
    "handler-host dispatch counter add '{\"number\": 2}'",
    "handler-host dispatch gpt_e chat @request.json --stream",
    "handler-host dispatch sheets sync --to google --dry-run",
)
_FIELD = re.compile(r"[A-Za-z_][\w.-]*=")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--stream", action="store_true", help="print each chunk as it arrives, one in a line")
    parser.add_argument("handler", metavar="HANDLER", help="the handler; a cold one is activated first")
    parser.add_argument("operation", metavar="OPERATION", help="one of its operations (`handler-host ps HANDLER`)")
    request = parser.add_argument(
        "request",
        nargs=argparse.REMAINDER,
        metavar="REQUEST",
        help="JSON, @FILE, - or fields; without it, an empty object",
    )
    request.required = False  # argparse would list it among the missing arguments
    add_host_options(parser, admin=False, json=False)


def run(arguments: SimpleNamespace) -> int:
    """Run an operation and print its response."""
    from handler_host.cli.client import Client

    words = list(arguments.request)
    is_streamed = arguments.stream or "--stream" in words
    words = [word for word in words if word != "--stream"]
    client = Client.from_arguments(arguments)
    send = _send_streamed if is_streamed else _send
    try:
        return send(client, arguments.handler, arguments.operation, request_body(words))
    except Failure as failure:
        if not words and failure.code == "invalid_input":
            note(_fields_hint(client, arguments.handler, arguments.operation))
        raise


def _send(client: Client, handler: str, operation: str, body: bytes) -> int:
    from handler_host.cli.progress import show_progress

    with show_progress(f"waiting for {handler}"):
        response = client.post("handlers", handler, operation, body=body)
    echo_json(response)
    return OK


def _send_streamed(client: Client, handler: str, operation: str, body: bytes) -> int:
    from handler_host.cli.client import stream_error
    from handler_host.cli.progress import show_progress

    with show_progress(f"waiting for {handler}"):
        events = client.post_streamed("handlers", handler, operation, body=body)
    for name, data in events:
        if name == "error":
            raise stream_error(data)
        if name == "end":
            return OK
        echo(data)
    raise events.truncated()


def _fields_hint(client: Client, handler: str, operation: str) -> str:
    """Return the fields of an operation, for a command that named none."""
    operations = client.get("handlers", handler)["operations"] or ()
    schema = next((entry["input_schema"] for entry in operations if entry["name"] == operation), None) or {}
    if "$ref" in schema:
        schema = schema["$defs"][schema["$ref"].rpartition("/")[2]]
    required, properties = schema.get("required", ()), schema.get("properties", {})
    names = [*required, *(name for name in properties if name not in required)]
    fields = ", ".join(f"{name} (required)" if name in required else name for name in names)
    return (
        "the request is empty; add fields as --field value or field=value, or write it as JSON"
        f"{f'. Fields of {operation}: {fields}' if fields else ''}"
    )


def request_body(words: Sequence[str]) -> bytes:
    """Return the JSON for the words after the operation: one document, or the fields of an object."""
    if len(words) == 1 and not words[0].startswith("--") and not _FIELD.match(words[0]):
        return _document(words[0])
    fields: dict[str, Any] = {}
    remaining = list(words)
    while remaining:
        name, value = _pop_field(remaining)
        if name not in fields:
            fields[name] = value
        elif isinstance(fields[name], list):
            fields[name].append(value)
        else:
            fields[name] = [fields[name], value]
    return json.dumps(fields).encode()


def _pop_field(remaining: list[str]) -> tuple[str, Any]:
    """Remove the first field from ``remaining``; return its name and value."""
    word = remaining.pop(0)
    if _FIELD.match(word):
        name, _, text = word.partition("=")
        return name, _value(text)
    if not word.startswith("--") or len(word) == 2:
        raise Failure(f"{word!r} is not a field; write --field value, field=value, or the request as JSON", USAGE)
    name, equals, text = word[2:].partition("=")
    if not equals:
        # A field without a value is a switch.
        text = remaining.pop(0) if remaining and not remaining[0].startswith("--") else "true"
    return name.replace("-", "_"), _value(text)


def _document(word: str) -> bytes:
    """Return the JSON in ``word``, or in the file or standard input that it names, byte for byte."""
    source = "the request"
    try:
        if word == "-":
            source, document = "standard input", sys.stdin.buffer.read()
        elif word.startswith("@"):
            source, document = word[1:], Path(word[1:]).read_bytes()
        else:
            document = word.encode()
        json.loads(document)
    except OSError as error:
        raise Failure(f"{source}: cannot read it: {error.strerror}", USAGE) from error
    except ValueError as error:
        raise Failure(f"{source}: not valid JSON: {error}; write JSON, @FILE, -, or --field value", USAGE) from None
    return document


def _value(text: str) -> Any:
    """Return a field's value: parsed if it is JSON, otherwise the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
