"""``handler-host dispatch``: an operation of a handler, from the shell."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from handler_host.cli.client import Client, refused
from handler_host.cli.failure import OK, USAGE, Failure
from handler_host.cli.render import echo, put_json

_PAIR = re.compile(r"[A-Za-z_][\w.-]*=")


def dispatch(arguments: SimpleNamespace) -> int:
    """Run an operation and print its answer."""
    words = list(arguments.request)
    streamed = arguments.stream or "--stream" in words
    body = request_body([word for word in words if word != "--stream"])
    client = Client(arguments)
    path = ("handlers", arguments.handler, arguments.operation)
    if not streamed:
        put_json(client.ask(*path, body=body))
        return OK
    events = client.events(*path, body=body)
    for name, data in events:
        if name == "error":
            raise refused(data)
        if name == "end":
            return OK
        echo(data)
    raise events.broken_off()


def request_body(words: Sequence[str]) -> bytes:
    """Return the JSON that the words after the operation mean: one document, or the fields of an object."""
    if len(words) == 1 and not words[0].startswith("--") and not _PAIR.match(words[0]):
        return _document(words[0])
    fields: dict[str, Any] = {}
    rest = list(words)
    while rest:
        name, value = _field(rest)
        if name not in fields:
            fields[name] = value
        elif isinstance(fields[name], list):
            fields[name].append(value)
        else:
            fields[name] = [fields[name], value]
    return json.dumps(fields).encode()


def _field(rest: list[str]) -> tuple[str, Any]:
    """Take the next field off ``rest``."""
    word = rest.pop(0)
    if _PAIR.match(word):
        name, _, text = word.partition("=")
        return name, _value(text)
    if not word.startswith("--") or len(word) == 2:
        raise Failure(f"{word!r} is no field; write --field value, field=value, or all of it as JSON", USAGE)
    name, equals, text = word[2:].partition("=")
    if not equals:
        # A flag without a value is a switch.
        text = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
    return name.replace("-", "_"), _value(text)


def _document(word: str) -> bytes:
    """Return the JSON that is given, or that is in a file or on standard input; it is passed on as it is."""
    place = "the request"
    try:
        if word == "-":
            place, document = "standard input", sys.stdin.buffer.read()
        elif word.startswith("@"):
            place, document = word[1:], Path(word[1:]).read_bytes()
        else:
            document = word.encode()
        json.loads(document)
    except OSError as error:
        raise Failure(f"{place}: cannot be read: {error.strerror}", USAGE) from error
    except ValueError as error:
        raise Failure(f"{place} is not JSON: {error}; write JSON, @FILE, -, or --field value", USAGE) from None
    return document


def _value(text: str) -> Any:
    """Return a field's value: JSON where it is JSON, else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
