"""``handler-host chat``: one question, or a dialogue."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from handler_host._internal.units import format_duration
from handler_host.cli.client import Client, Events, refused
from handler_host.cli.failure import INTERRUPTED, OK, USAGE, Failure
from handler_host.cli.render import echo, note, put_failure

_TIMING = re.compile(r"(\w+);dur=([\d.]+)")


def chat(arguments: SimpleNamespace) -> int:
    """Say something and print the answer as it comes; without a message, go on until the end of input."""
    dialogue = Dialogue(Client(arguments), arguments)
    if arguments.message is None and sys.stdin.isatty():
        return converse(dialogue)
    message = arguments.message if arguments.message not in (None, "-") else sys.stdin.read()
    if not message.strip():
        raise Failure(f'there is no message; write one: handler-host chat {arguments.model} "Who are you?"', USAGE)
    dialogue.say(message)
    return OK


class Dialogue:
    """What was said by now, with one model of one host."""

    def __init__(self, client: Client, arguments: SimpleNamespace) -> None:
        self._client = client
        self._verbose: bool = arguments.verbose
        self._messages: list[dict[str, str]] = []
        self._options: dict[str, Any] = {"model": arguments.model, "stream": True}
        if arguments.system is not None:
            self._messages.append({"role": "system", "content": arguments.system})
        if arguments.max_tokens is not None:
            self._options["max_tokens"] = arguments.max_tokens
        if arguments.temperature is not None:
            self._options["temperature"] = arguments.temperature
        if self._verbose:
            self._options["stream_options"] = {"include_usage": True}

    def say(self, text: str) -> None:
        """Print the answer to ``text``; what is refused or interrupted is no part of the dialogue."""
        asked_at = time.monotonic()
        messages = [*self._messages, {"role": "user", "content": text}]
        events = self._client.events("chat", "completions", body=_json(self._options | {"messages": messages}))
        response = Answer(events)
        try:
            response.print()
        finally:
            events.close()
        self._messages = [*messages, {"role": "assistant", "content": "".join(response.chunks)}]
        if self._verbose:
            note(f"({', '.join(response.times(time.monotonic() - asked_at))})")


class Answer:
    """One answer, printed while it comes."""

    def __init__(self, events: Events) -> None:
        self.chunks: list[str] = []
        self._events = events
        self._usage: Mapping[str, Any] = {}

    def print(self) -> None:
        """Print it; raises :class:`Failure` where it is no whole one."""
        try:
            for _, data in self._events:
                if data == "[DONE]":
                    return
                self._take(data)
        finally:
            echo()
        raise self._events.broken_off()

    def _take(self, data: str) -> None:
        try:
            chunk = json.loads(data)
            if "error" in chunk:
                raise refused(data)
            for choice in chunk["choices"]:
                piece = choice["delta"].get("content") or choice["delta"].get("refusal") or ""
                self.chunks.append(piece)
                echo(piece, end="")
            self._usage = chunk.get("usage") or self._usage
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Failure(f"this is no part of a chat completion: {data[:200]}") from None

    def times(self, seconds: float) -> list[str]:
        """Return what the time went into."""
        timing = dict(_TIMING.findall(self._events.headers.get("server-timing", "")))
        queue, activate, handler = (float(timing.get(name, 0)) / 1000 for name in ("queue", "activate", "handler"))
        told = [f"cold start {format_duration(activate)}" if activate else "warm"]
        if queue >= 0.001:
            told.append(f"queued for {format_duration(queue)}")
        told.append(f"first piece after {format_duration(handler)}")
        tokens = self._usage.get("completion_tokens")
        told.append(f"{tokens} tokens in {format_duration(seconds)}" if tokens else format_duration(seconds))
        return told


def converse(dialogue: Dialogue) -> int:
    """Read and answer line by line; Ctrl-C ends an answer, and at the prompt the dialogue, as Ctrl-D does."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - gives `input` the arrow keys and a history

    while True:
        try:
            line = input("you> ")
        except EOFError:
            echo()
            return OK
        except KeyboardInterrupt:
            echo()
            return INTERRUPTED
        if not line.strip():
            continue
        try:
            dialogue.say(line)
        except Failure as failure:
            put_failure(failure)
        except KeyboardInterrupt:
            note("(interrupted; Ctrl-D ends the dialogue)")


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
