"""Parsing a configuration file."""

from __future__ import annotations

from typing import Any

from handler_host._internal.toml_error import explain_toml_error
from handler_host.plugin.errors import ConfigError


def parse_toml(text: str, file: str) -> dict[str, Any]:
    """Return the content of a file with this text; raises :class:`ConfigError`."""
    import tomllib  # a host without a file does not need it

    try:
        return tomllib.loads(text)
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"{file}: not valid TOML: {explain_toml_error(error)}") from error
