"""JSON responses."""

from __future__ import annotations

import msgspec
from aiohttp import hdrs, web

JSON = "application/json"
JSON_HEADERS = {hdrs.CONTENT_TYPE: JSON}


def json_response(content: object, status: int = 200) -> web.Response:
    """Return ``content``, which consists of msgspec structs and JSON types, as JSON."""
    return web.Response(status=status, body=msgspec.json.encode(content), headers=JSON_HEADERS)
