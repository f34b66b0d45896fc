"""Arguments of tool calls, for protocols that have them as objects. Pure."""

from __future__ import annotations

from typing import Any

import msgspec


def arguments_of(text: str) -> dict[str, Any]:
    """Return the arguments of a tool call as an object.

    Models write invalid arguments, or are cut off in them, and clients send the call back with an error as its result:
    such arguments become the field ``arguments`` of an object.
    """
    try:
        arguments = msgspec.json.decode(text or "{}")
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        arguments = text
    return arguments if isinstance(arguments, dict) else {"arguments": arguments}
