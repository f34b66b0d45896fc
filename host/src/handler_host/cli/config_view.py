"""The configuration in force as TOML or JSON, with its secrets masked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from handler_host._internal.log import MASK
from handler_host.config import POLICY_KEYS, Config, HandlerPolicy
from handler_host.config.launchers import LauncherConfig
from handler_host.config.loader import LoadedConfig
from handler_host.config.masking import mask_handler, mask_value
from handler_host.config.toml_text import toml_key, toml_value
from handler_host.config.values import SECTIONS, keys_of

SETTING_WIDTH = 39
"""Column at which the source of a value starts."""
_DEFAULT = "default"


def to_json(loaded: LoadedConfig) -> dict[str, Any]:
    """Return the configuration with durations in seconds and sizes in bytes, and the source of each key that is set."""
    config = loaded.config
    sections = {
        name: {key: getattr(getattr(config, name), key) for key in keys_of(section)}
        for name, section in SECTIONS.items()
    }
    handlers = {name: mask_handler(keys) for name, keys in config.handlers.items()}
    values = {
        "data_dir": config.data_dir,
        **mask_value(sections),
        "models": config.models,
        "handlers": handlers,
        "launchers": mask_value(config.launchers),
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
            value = mask_value(getattr(getattr(config, name), key), key=key)
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
        for key, value in mask_handler(keys).items():
            annotation = policy[key] if key in POLICY_KEYS else None
            source = sources.get(f"handlers.{name}.{key}", _DEFAULT)
            yield _toml_line(key, value, annotation, source)
    launcher = keys_of(LauncherConfig)
    for name, keys in config.launchers.items():
        yield ""
        yield f"[launchers.{toml_key(name)}]"
        for key, value in mask_value(keys).items():
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


def describe_source(config: Config) -> str:
    """Return the file of a configuration, for messages."""
    return str(config.source) if config.source is not None else "the configuration"
