"""The configuration in force as TOML or JSON, with its secrets masked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from handler_host._internal.log import MASK
from handler_host.config import POLICY_KEYS, Config, HandlerPolicy, looks_secret
from handler_host.config.launchers import LauncherConfig
from handler_host.config.loader import LoadedConfig
from handler_host.config.toml_text import toml_key, toml_value
from handler_host.config.values import SECTIONS, keys_of

SETTING_WIDTH = 39
"""Column at which the source of a value starts."""
_PASSWORD = re.compile(r"(?<=://)[^/@\s]+@")
_DEFAULT = "default"


def to_json(loaded: LoadedConfig) -> dict[str, Any]:
    """Return the configuration with durations in seconds and sizes in bytes, and the source of each key that is set."""
    config = loaded.config
    sections = {
        name: {key: getattr(getattr(config, name), key) for key in keys_of(section)}
        for name, section in SECTIONS.items()
    }
    handlers = {name: _mask_handler(keys) for name, keys in config.handlers.items()}
    values = {
        "data_dir": config.data_dir,
        **_mask(sections),
        "models": config.models,
        "handlers": handlers,
        "launchers": _mask(config.launchers),
    }
    sources = {key: str(origin) for key, origin in loaded.origins.items()}
    return {"config": json.loads(json.dumps(values, default=str)), "sources": sources}


def toml_lines(loaded: LoadedConfig) -> Iterator[str]:
    """Yield the lines of a configuration file with the same values, each with its source in a comment."""
    config = loaded.config
    sources = {key: str(origin) for key, origin in loaded.origins.items()}
    yield _toml_line("data_dir", config.data_dir, None, sources.get("data_dir", _DEFAULT))
    for name, section in SECTIONS.items():
        yield ""
        yield f"[{name}]"
        for key, annotation in keys_of(section).items():
            value = _mask(getattr(getattr(config, name), key), key=key)
            yield _toml_line(key, value, annotation, sources.get(f"{name}.{key}", _DEFAULT))
    if config.models:
        yield ""
        yield "[models]"
        for name, target in config.models.items():
            yield _toml_line(name, target, None, sources[f"models.{name}"])
    policy = keys_of(HandlerPolicy)
    for name, keys in config.handlers.items():
        yield ""
        yield f"[handlers.{toml_key(name)}]"
        for key, value in _mask_handler(keys).items():
            annotation = policy[key] if key in POLICY_KEYS else None
            source = sources.get(f"handlers.{name}.{key}", _DEFAULT)
            yield _toml_line(key, value, annotation, source)
    launcher = keys_of(LauncherConfig)
    for name, keys in config.launchers.items():
        yield ""
        yield f"[launchers.{toml_key(name)}]"
        for key, value in _mask(keys).items():
            yield _toml_line(key, value, launcher.get(key), sources[f"launchers.{name}.{key}"])


def _toml_line(key: str, value: Any, annotation: Any, source: str) -> str:
    text = toml_value(value, annotation)
    # A masked or missing value is a comment: the output must be a valid file.
    setting = (
        f"# {toml_key(key)}: {'not set' if text is None else text}"
        if text is None or MASK in text
        else f"{toml_key(key)} = {text}"
    )
    return f"{setting.ljust(SETTING_WIDTH)} # {source}"


def _mask_handler(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of a handler with its secrets masked; ``secrets`` has names of variables only."""
    return {key: value if key == "secrets" else _mask(value, key) for key, value in keys.items()}


def _mask(value: Any, key: str = "") -> Any:
    """Return a value with its secrets masked: values of keys such as ``api_key``, and passwords in URLs."""
    if looks_secret(key) and value:
        return f"{MASK} ({len(value)} set)" if isinstance(value, tuple) else MASK
    if isinstance(value, Mapping):
        return {name: _mask(item, name) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mask(item) for item in value]
    if isinstance(value, str):
        return _PASSWORD.sub(f"{MASK}@", value)
    return value


def describe_source(config: Config) -> str:
    """Return the file of a configuration, for messages."""
    return str(config.source) if config.source is not None else "the configuration"
