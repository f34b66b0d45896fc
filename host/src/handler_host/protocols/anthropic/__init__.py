"""Anthropic's messages."""

from __future__ import annotations

from multidict import istr

from handler_host.protocols.anthropic.errors import error_body
from handler_host.protocols.protocol import ClientProtocol

FORMAT = "anthropic"
"""Format of Anthropic's own signatures and encrypted reasoning."""

ANTHROPIC = ClientProtocol(
    name="anthropic",
    paths=(
        ("GET", "/v1/models"),
        ("GET", "/v1/models/{model:.+}"),
        ("POST", "/v1/messages"),
        ("POST", "/v1/messages/count_tokens"),
    ),
    module="handler_host.protocols.anthropic.routes",
    error_body=error_body,
    request_id_header=istr("request-id"),
    key_headers=("x-api-key",),
    marker_header="anthropic-version",
)
