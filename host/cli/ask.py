"""The consumers' commands: ``dispatch`` and ``chat``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from host.cli import OK, USAGE
from host.cli.client import Client
from host.cli.failure import Failure
from host.cli.render import put, put_json


def dispatch(arguments: argparse.Namespace) -> int:
    """Run an operation and print its answer."""
    client = Client(arguments)
    words = list(arguments.request)
    streamed = arguments.stream
    if "--stream" in words:
        words.remove("--stream")
        streamed = True
    body = _body(words)
    path = ("handlers", arguments.handler, arguments.operation)
    if not streamed:
        put_json(client.ask(*path, body=body))
        return OK
    for name, data, _ in client.events(*path, body=body):
        if name == "error":
            raise Failure(_message(json.loads(data)))
        if name == "message":
            put(data)
    return OK


def chat(arguments: argparse.Namespace) -> int:
    """Say something and print the answer as it comes; without a message, go on until the end of input."""
    client = Client(arguments)
    messages: list[dict[str, str]] = []
    if arguments.system:
        messages.append({"role": "system", "content": arguments.system})
    if arguments.message is not None:
        _turn(client, arguments, messages, arguments.message)
        return OK
    while True:
        try:
            line = input("you> " if sys.stdin.isatty() else "")
        except EOFError:
            return OK
        if line.strip():
            try:
                _turn(client, arguments, messages, line)
            except Failure as failure:
                # A dialogue goes on after a refusal; what was refused is not part of it.
                messages.pop()
                sys.stderr.write(f"handler-host: {failure}\n")


def _turn(client: Client, arguments: argparse.Namespace, messages: list[dict[str, str]], text: str) -> None:
    messages.append({"role": "user", "content": text})
    said: list[str] = []
    timing = ""
    body = {"model": arguments.model, "messages": messages, "stream": True}
    for _, data, headers in client.events("chat", "completions", body=body):
        timing = headers.get("server-timing", "")
        if data == "[DONE]":
            break
        chunk = json.loads(data)
        if "error" in chunk:
            put()
            raise Failure(_message(chunk))
        for choice in chunk["choices"]:
            piece = choice["delta"].get("content") or choice["delta"].get("refusal") or ""
            said.append(piece)
            put(piece, end="")
    put()
    messages.append({"role": "assistant", "content": "".join(said)})
    if arguments.verbose:
        sys.stderr.write(f"({timing})\n")


def _message(envelope: dict[str, Any]) -> str:
    error = envelope["error"]
    return f"{error['message']} ({error['code']})"


def _body(words: list[str]) -> Any:
    """Return the request that the words after the operation make."""
    if not words:
        return {}
    if len(words) == 1 and not words[0].startswith("--") and "=" not in words[0].partition("{")[0]:
        return _document(words[0])
    fields: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            name, equals, value = word.partition("=")
            if not equals:
                raise Failure(f"{word!r} is no field; write JSON, or --field value, or field=value", USAGE)
        else:
            name, equals, value = word[2:].partition("=")
            if not equals:
                value = next(rest, "true")
        fields[name.replace("-", "_")] = _value(value)
    return fields


def _document(word: str) -> Any:
    try:
        if word == "-":
            text, place = sys.stdin.read(), "standard input"
        elif word.startswith("@"):
            text, place = Path(word[1:]).read_text(encoding="utf-8"), word[1:]
        else:
            text, place = word, "the request"
    except OSError as error:
        raise Failure(f"{word[1:]}: {error.strerror}", USAGE) from error
    try:
        return json.loads(text)
    except ValueError as error:
        raise Failure(f"{place} is not JSON: {error}; write JSON, @FILE, - or --field value", USAGE) from None


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
