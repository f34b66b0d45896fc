"""Separate the tool calls of a stream, also of servers without indices or IDs. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterator, Mapping
from typing import Any

from handler_host.chat.types import ToolCallChunk
from handler_host.plugin.errors import UpstreamError

_TO_STRING_END = re.compile(r'[^"\\]*')
_TO_MARK = re.compile(r'[^"{}\[\]]*')
_DEPTHS = {"{": 1, "[": 1, "}": -1, "]": -1}


class _Call:
    """A tool call in progress."""

    def __init__(self, number: int, call_id: str | None, name: str) -> None:
        self.number = number
        self.id = call_id
        self.name = name
        self.is_sent = False
        """Its first chunk, with ID and name, was returned."""
        self.has_arguments = False
        self.unsent: list[str] = []
        """Arguments that came before the name."""
        self._unscanned: list[str] = []
        self._depth = 0
        self._in_string = False
        self._after_backslash = False

    def add(self, arguments: str) -> None:
        """Add a part of the arguments."""
        self.has_arguments = True
        self._unscanned.append(arguments)

    def is_complete(self) -> bool:
        """Return whether the arguments so far are a complete JSON object; each part is scanned once."""
        for part in self._unscanned:
            self._scan(part)
        self._unscanned.clear()
        return self.has_arguments and self._depth == 0 and not self._in_string

    def _scan(self, text: str) -> None:
        position = 1 if self._after_backslash else 0
        self._after_backslash = False
        while True:
            match = (_TO_STRING_END if self._in_string else _TO_MARK).match(text, position)
            position = match.end() if match is not None else len(text)
            if position >= len(text):
                return
            mark = text[position]
            position += 1
            if mark == "\\":
                position += 1
                self._after_backslash = position > len(text)
            elif mark == '"':
                self._in_string = not self._in_string
            else:
                self._depth += _DEPTHS[mark]


class ToolCallDecoder:
    """Decoder of the tool calls of one response in OpenAI's form.

    A call begins with another ID, or with a function's name that does not continue the call before: at another index,
    after complete arguments, or without an index. All else continues a call: of its index, or the last one.

    The first chunk of a call waits for its arguments, because some servers send its name in parts, and for a name, as
    some send it last. ``tool_names`` are the functions of the request: a known name is whole.
    """

    def __init__(self, tool_names: Container[str] = ()) -> None:
        self._tool_names = tool_names
        self._by_index: dict[object, _Call] = {}
        """The last call at each index."""
        self._last: _Call | None = None
        self._waiting: list[_Call] = []
        """Calls without arguments or without a name, whose first chunk was not returned."""
        self.count = 0
        """Number of calls."""

    def chunks(self, deltas: list[Any], *, is_whole: bool = False) -> Iterator[ToolCallChunk]:
        """Yield the chunks for the ``tool_calls`` of one delta, or of a whole message: there each item is a call."""
        for delta in deltas:
            if isinstance(delta, Mapping):
                yield from self._add(delta, is_whole=is_whole)

    def last(self) -> Iterator[ToolCallChunk]:
        """Yield the first chunk of each call that waits for arguments."""
        waiting, self._waiting = self._waiting, [call for call in self._waiting if not call.name]
        for call in waiting:
            if call.name:
                yield _first_chunk(call)

    def close(self) -> Iterator[ToolCallChunk]:
        """Yield what :meth:`last` does, at the end; raises ``UpstreamError`` for a call that got no name."""
        yield from self.last()
        for call in self._waiting:
            arguments = "".join(call.unsent)[:200]
            raise UpstreamError(f"the provider sent a tool call without a name; its arguments: {arguments}")

    def _add(self, delta: Mapping[str, Any], *, is_whole: bool) -> Iterator[ToolCallChunk]:
        function = delta.get("function")
        fields = function if isinstance(function, Mapping) else delta
        index = delta.get("index")
        index = index if isinstance(index, int | float | str) else None
        call_id = delta.get("id")
        call_id = str(call_id) if isinstance(call_id, str | int) and call_id != "" else None
        name = fields.get("name")
        name = name if isinstance(name, str) else ""
        arguments = _arguments_of(fields.get("arguments"))
        call = None if is_whole else self._continued(index, call_id, name, arguments)
        if call is None:
            yield from self.last()
            call = _Call(self.count, call_id, name)
            self.count += 1
            self._waiting.append(call)
        else:
            if call.id is None:
                call.id = call_id
            if name and not call.is_sent and name != call.name:
                call.name += name
        self._by_index[index] = self._last = call
        if not call.has_arguments and arguments.strip() == "null":
            arguments = ""  # some servers send it for a function without parameters
        if arguments:
            call.add(arguments)
        if call.is_sent:
            if arguments:
                yield ToolCallChunk(index=call.number, arguments=arguments)
            return
        call.unsent.append(arguments)
        if call.name and call.has_arguments:
            self._waiting.remove(call)
            yield _first_chunk(call)

    def _continued(self, index: object, call_id: str | None, name: str, arguments: str) -> _Call | None:
        """Return the call that a delta continues, or None if it begins one."""
        call = self._last if index is None else self._by_index.get(index)
        if call is None:
            # Without name and ID it cannot be a call: some servers count the deltas with the index.
            is_new = name or self._last is None or (call_id is not None and call_id != self._last.id)
            return None if is_new else self._last
        if call_id is not None and call.id is not None and call_id != call.id:
            # A new ID without a name is that of a server which gives each delta one.
            return call if call.name and not name and not call.is_complete() else None
        if not name or not call.name:
            return call
        if call.has_arguments:
            # A server that repeats name and ID in each delta, unless these are the arguments of another call.
            return call if name == call.name and not (arguments and call.is_complete()) else None
        if call_id is not None and call_id == call.id:
            return call
        if index is None or (call.name in self._tool_names and name in self._tool_names):
            return None
        return call


def _first_chunk(call: _Call) -> ToolCallChunk:
    call.is_sent = True
    arguments = "".join(call.unsent)
    call.unsent.clear()
    return ToolCallChunk(index=call.number, id=call.id, name=call.name, arguments=arguments)


def _arguments_of(arguments: Any) -> str:
    """Return arguments as text: some servers send the object itself."""
    if arguments is None:
        return ""
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
