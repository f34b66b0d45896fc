"""Reading a configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from handler_host._internal.toml_error import explain_toml_error
from handler_host.config.text_file import read_text
from handler_host.plugin.errors import ConfigError


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a file; raises :class:`ConfigError`."""
    import tomllib  # a host without a file does not need it

    text = read_text(path, str(path), "give another file with --config")
    try:
        return tomllib.loads(text)
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"{path}: not valid TOML: {explain_toml_error(error)}") from error
