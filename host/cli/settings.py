"""``handler-host config`` and ``handler-host version``."""

from __future__ import annotations

import argparse
import getpass
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from host.cli import OK, USAGE
from host.cli.failure import Failure
from host.cli.render import put, put_json
from host.cli.serve import loaded
from host.config import Config
from host.config_loader import SECTIONS, Origin, hash_key
from host.version import __version__

_SECRET_WORDS = ("key", "token", "secret", "password")


def version(arguments: argparse.Namespace) -> int:
    """Print the version."""
    put(f"handler-host {__version__} (Python {platform.python_version()})")
    return OK


def config(arguments: argparse.Namespace) -> int:
    """Show, check, or hash."""
    if arguments.action == "hash":
        return _hash()
    config, origins = loaded(arguments)
    if arguments.action == "check":
        put(f"{config.source or 'defaults'}: in order")
    elif arguments.json:
        put_json(_plain(config))
    else:
        _show(config, origins)
    return OK


def _hash() -> int:
    key = (getpass.getpass("key: ") if sys.stdin.isatty() else sys.stdin.readline()).strip()
    if len(key) < 16:
        raise Failure(
            "the key is shorter than 16 characters; a long random one is needed, e.g. of `openssl rand -hex 24`", USAGE
        )
    put(hash_key(key))
    return OK


def _plain(config: Config) -> dict[str, Any]:
    """Return the configuration as what JSON knows, secrets masked."""
    shown: dict[str, Any] = {
        name: {key: _shown(getattr(getattr(config, name), key)) for key in getattr(config, name).__struct_fields__}
        for name in SECTIONS
    }
    shown["auth"] = {
        "api_keys": ["sha256:***"] * len(config.auth.api_keys),
        "admin_token": "sha256:***" if config.auth.admin_token else None,
    }
    shown["data_dir"] = _shown(config.data_dir)
    shown["handlers"] = {
        name: {key: _masked(key, _shown(value)) for key, value in keys.items()}
        for name, keys in config.handlers.items()
    }
    return shown


def _shown(value: Any) -> Any:
    return msgspec.to_builtins(str(value) if isinstance(value, Path) else value, enc_hook=str)


def _masked(key: str, value: Any) -> Any:
    return "***" if any(word in key.lower() for word in _SECRET_WORDS) else value


def _show(config: Config, origins: Mapping[str, Origin]) -> None:
    plain = _plain(config)
    _line("data_dir", plain.pop("data_dir"), origins.get("data_dir"))
    handlers = plain.pop("handlers")
    for section, keys in plain.items():
        put(f"\n[{section}]")
        for key, value in keys.items():
            _line(key, value, origins.get(f"{section}.{key}"))
    for name, keys in handlers.items():
        put(f"\n[handlers.{name}]")
        for key, value in keys.items():
            _line(key, value, origins.get(f"handlers.{name}.{key}"))


def _line(key: str, value: Any, origin: Origin | None) -> None:
    text = msgspec.json.encode(value).decode() if value is not None else '"" (none)'
    put(f"{key} = {text}".ljust(46) + f"  # {origin.name if origin is not None else 'default'}")
