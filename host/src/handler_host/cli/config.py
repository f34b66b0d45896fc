"""``handler-host config``: what is in force and where each value comes from, secrets masked."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from handler_host.cli.failure import OK, USAGE, Failure
from handler_host.cli.flags import loaded
from handler_host.cli.render import echo, note, put_json
from handler_host.config import POLICY_KEYS, Config, HandlerPolicy, looks_secret
from handler_host.config.loader import Loaded, hash_key
from handler_host.config.toml_text import toml_key, toml_value
from handler_host.config.values import SECTIONS, keys_of
from handler_host.plugin.errors import ConfigError

SHORTEST_KEY = 16
MASK = "***"
_PASSWORD = re.compile(r"(?<=://)[^/@\s]+@")
_DEFAULT = "default"


def config(arguments: SimpleNamespace) -> int:
    """Show, check, or hash."""
    if arguments.action == "hash":
        return _hash()
    found = loaded(arguments)
    if arguments.action == "check":
        return _check(found.config)
    if arguments.json:
        sources = {key: str(origin) for key, origin in found.origins.items()}
        put_json({"config": _plain(found.config), "sources": sources})
    else:
        for line in _toml(found):
            echo(line)
    return OK


def _hash() -> int:
    """Print how a key is written in the file. The key itself is no argument, as `ps` shows those."""
    import getpass

    key = (getpass.getpass("key: ") if sys.stdin.isatty() else sys.stdin.readline()).strip()
    if len(key) < SHORTEST_KEY:
        raise Failure(
            f"the key has fewer than {SHORTEST_KEY} characters; take a long random one, e.g. of `openssl rand -hex 24`",
            USAGE,
        )
    echo(hash_key(key))
    return OK


def _check(config: Config) -> int:
    """Check what is set for handlers against their manifests as well; no plugin is imported."""
    from handler_host.catalog.catalog import scan
    from handler_host.cli.diagnosis import of_settings

    entries = scan(config.catalog, os.environ).entries
    problems = []
    for finding in of_settings(config, entries):
        if finding.level == "problem":
            problems.append(finding.text)
        else:
            note(f"warning: {finding.place}: {finding.text}")
    for entry in entries.values():
        if entry.problem is not None:
            note(f"warning: {entry.name} cannot run: {entry.problem.state}: {entry.problem.reason}")
    if problems:
        raise ConfigError("\n".join(problems))
    echo(f"{config.source or 'the configuration'} is in order")
    return OK


def _plain(config: Config) -> dict[str, Any]:
    """Return it as what JSON knows: durations in seconds, sizes in bytes."""
    sections = {
        name: {key: getattr(getattr(config, name), key) for key in keys_of(kind)} for name, kind in SECTIONS.items()
    }
    handlers = {name: _masked(keys) for name, keys in config.handlers.items()}
    plain = {"data_dir": config.data_dir, **_masked(sections), "handlers": handlers}
    shown: dict[str, Any] = json.loads(json.dumps(plain, default=str))
    return shown


def _toml(found: Loaded) -> Iterator[str]:
    """Yield the lines of a file that says the same, secrets apart."""
    config, origins = found
    sources = {key: str(origin) for key, origin in origins.items()}
    yield _line("data_dir", config.data_dir, None, sources.get("data_dir", _DEFAULT))
    for name, kind in SECTIONS.items():
        yield ""
        yield f"[{name}]"
        for key, annotation in keys_of(kind).items():
            value = _masked(getattr(getattr(config, name), key), key=key)
            yield _line(key, value, annotation, sources.get(f"{name}.{key}", _DEFAULT))
    policy = keys_of(HandlerPolicy)
    for name, keys in config.handlers.items():
        yield ""
        yield f"[handlers.{toml_key(name)}]"
        for key, value in keys.items():
            annotation = policy[key] if key in POLICY_KEYS else None
            yield _line(key, _masked(value, key=key), annotation, sources.get(f"handlers.{name}.{key}", _DEFAULT))


def _line(key: str, value: Any, annotation: Any, source: str) -> str:
    text = toml_value(value, annotation)
    # What is masked or not set is no line of a file.
    line = (
        f"# {toml_key(key)}: {'not set' if text is None else text}"
        if text is None or MASK in text
        else f"{toml_key(key)} = {text}"
    )
    return f"{line.ljust(39)} # {source}"


def _masked(value: Any, key: str = "") -> Any:
    """Return a value without its secrets: what has a telling name, and passwords in URLs."""
    if looks_secret(key) and value:
        return f"{MASK} ({len(value)} set)" if isinstance(value, tuple) else MASK
    if isinstance(value, Mapping):
        return {name: _masked(item, name) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(item) for item in value]
    if isinstance(value, str):
        return _PASSWORD.sub(f"{MASK}@", value)
    return value
