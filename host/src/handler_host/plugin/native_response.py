"""Start of a provider's response, as it came, and the body of a provider's error."""

from __future__ import annotations

import msgspec


class NativeResponse(msgspec.Struct, frozen=True):
    """Status and headers of a provider's response; a native operation yields it before the bytes of the body.

    The host passes on those headers that the protocol defines for clients, and no others.
    """

    status: int = 200
    headers: dict[str, str] = {}
    """Headers; names are lower-case."""
    body: bytes = b""
    """The whole body, for an error that :func:`handler_host.plugin.provider_refusal` has made; else empty."""
