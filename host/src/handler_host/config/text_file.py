"""Reading the text files that a configuration consists of and names."""

from __future__ import annotations

from pathlib import Path

from handler_host.plugin.errors import ConfigError


def read_text(path: Path, place: str, remedy: str) -> str:
    """Return the text of a file; raises :class:`ConfigError` with ``place``, and with ``remedy`` if it is missing."""
    try:
        # Some editors write a byte order mark; it is not a mistake of the user.
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{place}: cannot be read: {error.strerror}; {remedy}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{place}: not UTF-8 text: {error.reason} at byte {error.start}; save the file as UTF-8"
        ) from error
    except ValueError as error:  # of a path with a null character
        raise ConfigError(f"{place}: cannot be read: {error}; {remedy}") from error
