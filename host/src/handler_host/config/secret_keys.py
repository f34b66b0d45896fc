"""Keys of the configuration whose values are not shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_SECRET_WORDS = frozenset(
    {"key", "keys", "token", "secret", "secrets", "password", "passwords", "passwd", "passphrase", "credentials"}
)


def looks_secret(key: str) -> bool:
    """Return whether the name of a key marks a secret: ``api_key`` does, ``max_tokens`` does not."""
    return not _SECRET_WORDS.isdisjoint(re.split(r"[^a-z]+", key.lower()))


def mask_secret_keys(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a table without the values of its secrets."""
    return {key: "***" if looks_secret(key) else value for key, value in keys.items()}
