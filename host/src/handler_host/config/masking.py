"""Settings as operators see them: secrets are masked, by the names of their keys and in URLs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from handler_host._internal.log import MASK
from handler_host.config.secret_keys import looks_secret

_PASSWORD = re.compile(r"(?<=://)[^/@\s]+@")


def mask_handler(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a handler with its secrets masked; ``secrets`` has names of variables only."""
    return {key: value if key == "secrets" else mask_value(value, key) for key, value in keys.items()}


def mask_value(value: Any, key: str = "") -> Any:
    """Return a value with its secrets masked: values of keys such as ``api_key``, and passwords in URLs."""
    if looks_secret(key) and value:
        return f"{MASK} ({len(value)} set)" if isinstance(value, tuple) else MASK
    if isinstance(value, Mapping):
        return {name: mask_value(item, name) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [mask_value(item) for item in value]
    if isinstance(value, str):
        return _PASSWORD.sub(f"{MASK}@", value)
    return value
