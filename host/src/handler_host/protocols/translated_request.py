"""A chat request as handlers take it, and where the client of another protocol has written its parts. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from handler_host.chat import types as chat
from handler_host.plugin.errors import InvalidInput


class TranslatedRequest(msgspec.Struct, frozen=True):
    """A translated request; handlers complain of it in its own words, and clients know theirs."""

    chat: chat.ChatRequest
    places: list[str]
    """Where each of its messages stood in the client's request."""
    tools: list[str]
    """Where each of its tools stood."""
    names: Mapping[str, str]
    """The client's names of fields, where they are others; of what is in a tool without the tool's number."""

    def with_client_path(self, error: InvalidInput) -> InvalidInput:
        """Return a handler's complaint with the client's own name of the field."""
        param = error.param or ""
        mine = self._mine(param)
        if mine == param:
            return error
        return InvalidInput(error.message.replace(param, mine), param=mine, details=error.details)

    def _mine(self, param: str) -> str:
        found = re.match(r"(messages|tools)\[(\d+)\]", param)
        if found is None:
            return self._renamed(param)
        number, places = int(found[2]), self.places if found[1] == "messages" else self.tools
        if number >= len(places):
            return param
        if found[1] == "messages":
            # What follows counts parts where the client has counted its own: the message is as far as it is sure.
            return places[number]
        return places[number] + self._renamed("tools" + param[found.end() :]).removeprefix("tools")

    def _renamed(self, param: str) -> str:
        """Return a path with its beginning in the client's words, as much of it as there is a name for."""
        for end in (len(param), *(match.start() for match in reversed(list(re.finditer(r"[.\[]", param))))):
            if param[:end] in self.names:
                return self.names[param[:end]] + param[end:]
        return param
