"""A chat request for handlers, with the client's own paths to its parts. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from handler_host.chat import types as chat
from handler_host.plugin.errors import InvalidInput
from handler_host.protocols.fields import IgnoredFields


class TranslatedRequest(msgspec.Struct, frozen=True):
    """A translated request: an error of a handler names a field of the chat, and the client needs its own."""

    chat: chat.ChatRequest
    places: list[str]
    """The path of each message in the client's request."""
    tools: list[str]
    """The path of each tool in the client's request."""
    names: Mapping[str, str]
    """The client's names of fields with another name; those inside of a tool without the tool's number.

    An empty name stands for a field that the client does not have.
    """
    ignored: IgnoredFields = msgspec.field(default_factory=IgnoredFields)
    """Fields of the client's request that were left out."""

    def with_client_path(self, error: InvalidInput) -> InvalidInput:
        """Return the error of a handler with the client's own path to the field."""
        param = error.param or ""
        path = self._client_path(param)
        if path == param:
            return error
        # Whole names only: a field may be called `n`.
        message = re.sub(rf"(?<!\w){re.escape(param)}(?!\w)", lambda _: path, error.message)
        return InvalidInput(message, param=path, details=error.details)

    def ignore(self, fields: Iterable[str]) -> None:
        """Note the fields of the chat that the handler has left out, under the client's names."""
        self.ignored.add([name for name in map(self._ignored_name, fields) if name])

    def _ignored_name(self, name: str) -> str:
        if not name.startswith("tools[]") or name in self.names:
            return self._client_name(name)
        inside = self._client_name("tools" + name.removeprefix("tools[]")).removeprefix("tools")
        place = re.sub(r"\[\d+\]", "[]", self.tools[0]) if self.tools else "tools[]"
        return place + inside

    def _client_path(self, param: str) -> str:
        match = re.match(r"(messages|tools)\[(\d+)\]", param)
        if match is None:
            return self._client_name(param)
        number, places = int(match[2]), self.places if match[1] == "messages" else self.tools
        if number >= len(places):
            return param
        if match[1] == "messages":
            # Not the part of the message: the client may have divided its content differently.
            return places[number]
        return places[number] + self._client_name("tools" + param[match.end() :]).removeprefix("tools")

    def _client_name(self, param: str) -> str:
        """Return a path with its longest known beginning replaced by the client's name."""
        longest = max(map(len, self.names), default=0)
        ends = [match.start() for match in re.finditer(r"[.\[]", param[: longest + 1])]
        if len(param) <= longest:
            ends.append(len(param))
        for end in reversed(ends):
            if param[:end] in self.names:
                return self.names[param[:end]] + param[end:]
        return param


def check_model(model: str) -> None:
    """Raise ``InvalidInput`` for a model in a body that names no handler, or an empty model of it."""
    if not model.partition("/")[0] or model.endswith("/"):
        raise InvalidInput(f"model: {model!r} must be HANDLER or HANDLER/MODEL", param="model")


def several(count: int | None) -> int | None:
    """Return how many responses a chat asks for: None for one, which every handler makes."""
    return None if count == 1 else count
