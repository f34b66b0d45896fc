"""A conversation with one model of a host, for ``chat`` and ``dev``."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from handler_host._internal.units import format_duration
from handler_host.cli.client import Client, EventStream, stream_error
from handler_host.cli.failure import INTERRUPTED, OK, Failure
from handler_host.cli.progress import show_progress
from handler_host.cli.render import echo, echo_failure, note

_TIMING = re.compile(r"(\w+);dur=([\d.]+)")


class Dialogue:
    """The messages so far, and the options of each request."""

    def __init__(
        self,
        client: Client,
        model: str,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        verbose: bool = False,
    ) -> None:
        self._client = client
        self._verbose = verbose
        self._messages: list[dict[str, str]] = []
        self._options: dict[str, Any] = {"model": model, "stream": True}
        if system is not None:
            self._messages.append({"role": "system", "content": system})
        if max_tokens is not None:
            self._options["max_tokens"] = max_tokens
        if temperature is not None:
            self._options["temperature"] = temperature
        if verbose:
            self._options["stream_options"] = {"include_usage": True}

    def send(self, text: str) -> None:
        """Send a message and print the response. A refused or interrupted exchange does not join the conversation."""
        started_at = time.monotonic()
        messages = [*self._messages, {"role": "user", "content": text}]
        body = json.dumps(self._options | {"messages": messages}).encode()
        with show_progress(f"waiting for {self._options['model']}"):
            events = self._client.post_streamed("chat", "completions", body=body)
        response = StreamedResponse(events)
        try:
            response.print()
        finally:
            events.close()
        self._messages = [*messages, {"role": "assistant", "content": "".join(response.texts)}]
        if self._verbose:
            note(f"({', '.join(response.timings(time.monotonic() - started_at))})")


class StreamedResponse:
    """A chat response that is printed while it arrives."""

    def __init__(self, events: EventStream) -> None:
        self.texts: list[str] = []
        """The text of each chunk."""
        self._events = events
        self._usage: Mapping[str, Any] = {}

    def print(self) -> None:
        """Print the response. Raises :class:`Failure` if it is not complete."""
        try:
            for _, data in self._events:
                if data == "[DONE]":
                    return
                self._print_chunk(data)
        finally:
            echo()
        raise self._events.truncated()

    def _print_chunk(self, data: str) -> None:
        try:
            chunk = json.loads(data)
            if "error" in chunk:
                raise stream_error(data)
            for choice in chunk["choices"]:
                text = choice["delta"].get("content") or choice["delta"].get("refusal") or ""
                self.texts.append(text)
                echo(text, end="")
            self._usage = chunk.get("usage") or self._usage
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Failure(f"not a chunk of a chat completion: {data[:200]}") from None

    def timings(self, total_s: float) -> list[str]:
        """Return the parts of the response time as phrases."""
        header = dict(_TIMING.findall(self._events.headers.get("server-timing", "")))
        queue, activate, handler = (float(header.get(name, 0)) / 1000 for name in ("queue", "activate", "handler"))
        phrases = [f"cold start {format_duration(activate)}" if activate else "warm"]
        if queue >= 0.001:
            phrases.append(f"queued {format_duration(queue)}")
        phrases.append(f"first chunk after {format_duration(handler)}")
        tokens = self._usage.get("completion_tokens")
        phrases.append(f"{tokens} tokens in {format_duration(total_s)}" if tokens else format_duration(total_s))
        return phrases


class Prompt:
    """The prompt of a dialogue. Lines of other threads are printed above it, and what was typed stays."""

    TEXT = "you> "

    def __init__(self) -> None:
        self._is_open = False
        self._lock = threading.Lock()

    def read(self) -> str:
        """Return the next line that the user enters."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - gives `input` arrow keys and a history

        self._is_open = True
        try:
            return input(self.TEXT)
        finally:
            self._is_open = False

    def print_above(self, text: str) -> None:
        """Print a text to standard error; may run in any thread."""
        with self._lock:
            is_open = self._is_open and sys.stdin.isatty() and sys.stderr.isatty()
            if is_open:
                sys.stderr.write("\r\033[K")
            note(text)
            if is_open:
                sys.stderr.flush()
                sys.stdout.write(f"{self.TEXT}{self._typed()}")
                sys.stdout.flush()

    @staticmethod
    def _typed() -> str:
        readline = sys.modules.get("readline")
        return readline.get_line_buffer() if readline is not None else ""


def converse(dialogue: Dialogue, prompt: Prompt | None = None) -> int:
    """Read messages line by line and print the responses; return the exit status.

    Ctrl-C stops a response; at the prompt it ends the dialogue, as Ctrl-D does.
    """
    prompt = prompt or Prompt()
    while True:
        try:
            line = prompt.read()
        except EOFError:
            echo()
            return OK
        except KeyboardInterrupt:
            echo()
            return INTERRUPTED
        if not line.strip():
            continue
        try:
            dialogue.send(line)
        except Failure as failure:
            echo_failure(failure)
        except KeyboardInterrupt:
            note("(interrupted; Ctrl-D ends the dialogue)")
