"""A chat request as handlers take it, and where the client of another protocol has written its parts. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from host import chat_types as chat
from host.errors import InvalidInput


class Asked(msgspec.Struct, frozen=True):
    """A translated request; handlers complain of it in its own words, and clients know theirs."""

    chat: chat.ChatRequest
    places: list[str]
    """Where each of its messages stood in the client's request."""
    names: Mapping[str, str]
    """The client's names of fields, where they are others."""

    def located(self, error: InvalidInput) -> InvalidInput:
        """Return a handler's complaint with the client's own name of the field."""
        param = error.param or ""
        found = re.match(r"messages\[(\d+)\]", param)
        if found is not None and int(found[1]) < len(self.places):
            # What follows counts parts where the client has counted its own: the message is as far as it is sure.
            mine = self.places[int(found[1])]
        elif param in self.names:
            mine = self.names[param]
        else:
            return error
        return InvalidInput(error.message.replace(param, mine), param=mine, details=error.details)
