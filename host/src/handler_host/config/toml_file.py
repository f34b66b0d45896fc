"""Reading a configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from handler_host.plugin.errors import ConfigError


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a file; raises :class:`ConfigError`."""
    import tomllib  # a host without a file does not need it

    try:
        # Some editors write a byte order mark; it is not a mistake of the user.
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; give another file with --config") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not UTF-8 text: {error.reason} at byte {error.start}; save the file as UTF-8"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from error
