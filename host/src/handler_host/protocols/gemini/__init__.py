"""Gemini's generateContent."""

from __future__ import annotations

from handler_host.plugin.errors import HostError
from handler_host.protocols.protocol import ClientProtocol

KEEP_ALIVE = b"\n"
"""Comment of an event stream: Google's SDKs take a line that starts with a colon for a broken response."""
FORMAT = "gemini"
"""Format of Gemini's own thought signatures."""
VERSIONS = ("v1beta", "v1")
"""Both versions of the API: google-genai uses ``v1`` by default."""
_METHODS = ("generateContent", "streamGenerateContent", "countTokens", "embedContent", "batchEmbedContents")


def error_body(error: HostError, request_id: str) -> bytes:
    """Return the JSON of an error in Google's format."""
    from handler_host.protocols.gemini.errors import error_body as encode_error

    return encode_error(error, request_id)


GEMINI = ClientProtocol(
    name="gemini",
    paths=(
        *(
            ("POST", f"/{version}/models/{{model:.+}}:{method}")
            for version in VERSIONS
            for method in (*_METHODS, "{method:[A-Za-z]+}")
        ),
        # Vercel's `ai` leaves `models/` out before a name with a slash (`HANDLER/MODEL`).
        *(("POST", f"/v1beta/{{model:.+}}:{method}") for method in _METHODS[:2]),
        *(("GET", f"/{version}/models") for version in VERSIONS),
        *(("GET", f"/{version}/models/{{model:.+}}") for version in VERSIONS),
    ),
    module="handler_host.protocols.gemini.routes",
    error_body=error_body,
    key_headers=("x-goog-api-key",),
    key_parameter="key",
    marker_header="x-goog-api-client",
)
