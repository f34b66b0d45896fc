"""Reads the configuration: a TOML file, then the environment, then flags, the later one stronger.

Whatever is wrong ends in one :class:`host.errors.ConfigError` that names the place
(file, variable or flag), the key, the value, and the nearest right one.
"""

from __future__ import annotations

import hashlib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from host.config import POLICY_KEYS, AuthConfig, Config, HandlerPolicy
from host.errors import ConfigError
from host.suggest import did_you_mean
from host.units import parse_duration, parse_size

PREFIX = "HANDLER_HOST_"
KEYS_VARIABLE = PREFIX + "API_KEYS"
TOKEN_VARIABLE = PREFIX + "ADMIN_TOKEN"
OTHER_VARIABLES = frozenset(PREFIX + name for name in ("API_KEYS", "API_KEY", "ADMIN_TOKEN", "URL", "CONFIG"))
"""Variables of the project that are no configuration keys."""

SIZES = frozenset(
    {
        "server.max_body",
        "server.max_header",
        "server.max_answer",
        "memory.limit",
        "memory.default_estimate",
        "workers.max_frame",
        "workers.window",
        "handler.memory_estimate",
    }
)
MINIMA = {
    "server.max_connections": 1,
    "server.max_header": 512,
    "server.max_body": 1,
    "workers.max_frame": 4096,
    "workers.window": 1024,
    "handler.max_concurrency": 1,
    "handler.crash_limit": 1,
}
SECTIONS: dict[str, Any] = {
    name: kind for name, kind in typing.get_type_hints(Config).items() if name not in ("data_dir", "handlers", "source")
}


class Origin(NamedTuple):
    """Where a value comes from: ``file``, ``environment`` or ``flag``, and how it is named there."""

    kind: str
    name: str


class Loaded(NamedTuple):
    """A configuration, and where each of its keys was set (``server.port``); the others are defaults."""

    config: Config
    origins: Mapping[str, Origin]


def load_config(path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, str] | None = None) -> Loaded:
    """Return what is in force.

    ``overrides`` are flags, by key (``server.port``). Raises :class:`ConfigError`.
    """
    builder = _Builder()
    if path is not None:
        builder.add_file(path)
    builder.add_environment(environ)
    for key, value in (overrides or {}).items():
        builder.set(key.split("."), value, Origin("flag", f"--{key.rpartition('.')[2].replace('_', '-')}"))
    return Loaded(builder.build(path), builder.origins)


def hash_key(key: str) -> str:
    """Return how a key is kept in a file: it is long and random, so that a plain digest is enough."""
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


class _Builder:
    """Collects decoded values, section by section."""

    def __init__(self) -> None:
        self.origins: dict[str, Origin] = {}
        self._sections: dict[str, dict[str, Any]] = {}
        self._handlers: dict[str, dict[str, Any]] = {}
        self._data_dir: Path | None = None

    def build(self, path: Path | None) -> Config:
        sections = {name: kind(**self._sections.get(name, {})) for name, kind in SECTIONS.items()}
        return Config(**sections, data_dir=self._data_dir, handlers=self._handlers, source=path)

    def add_file(self, path: Path) -> None:
        import tomllib  # only where there is a file

        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}; name another file with --config") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}: is no TOML: {error}") from error
        for section, value in table.items():
            if section == "data_dir":
                self.set([section], value, Origin("file", str(path)))
            elif not isinstance(value, dict):
                hint = did_you_mean(section, [*SECTIONS, "handlers", "data_dir"])
                raise ConfigError(f"{path}: {section} = {value!r}: unknown key{hint}")
            elif section == "handlers":
                for name, keys in value.items():
                    if not isinstance(keys, dict):
                        raise ConfigError(f"{path}: handlers.{name} = {keys!r}: has to be a table, [handlers.{name}]")
                    for key, entry in keys.items():
                        self.set([section, name, key], entry, Origin("file", str(path)))
            else:
                for key, entry in value.items() or ():
                    self.set([section, key], entry, Origin("file", str(path)))
                self._known_section(section, Origin("file", str(path)))

    def add_environment(self, environ: Mapping[str, str]) -> None:
        for variable, value in sorted(environ.items()):
            if not variable.startswith(PREFIX) or variable.startswith(PREFIX + "SECRET_"):
                continue
            origin = Origin("environment", variable)
            if variable == KEYS_VARIABLE:
                keys = tuple(hash_key(key.strip()) for key in value.split(",") if key.strip())
                self._store("auth", "api_keys", keys, origin)
            elif variable == TOKEN_VARIABLE:
                if value:
                    self._store("auth", "admin_token", hash_key(value), origin)
            elif variable == PREFIX + "DATA_DIR":
                self.set(["data_dir"], value, origin)
            elif variable not in OTHER_VARIABLES:
                parts = variable.removeprefix(PREFIX).lower().split("__")
                if len(parts) < 2:
                    known = [*OTHER_VARIABLES, *(f"{PREFIX}{section.upper()}__" for section in SECTIONS)]
                    raise ConfigError(f"environment variable {variable}: unknown{did_you_mean(variable, known)}")
                self.set(parts, value, origin)

    def set(self, keys: list[str], value: Any, origin: Origin) -> None:
        """Decode one value and keep it."""
        if keys == ["data_dir"]:
            self._data_dir = Path(_text(value, "data_dir", origin)).expanduser()
            self.origins["data_dir"] = origin
            return
        section, *rest = keys
        if section == "handlers" and len(rest) == 2:
            self._set_handlers_key(rest[0], rest[1], value, origin)
            return
        self._known_section(section, origin)
        if section == "catalog" and len(rest) == 2 and rest[0] == "pins":
            pins = {**self._sections.get("catalog", {}).get("pins", {}), rest[1]: _text(value, rest[1], origin)}
            self._store("catalog", "pins", pins, origin)
            return
        hints = typing.get_type_hints(SECTIONS[section])
        if len(rest) != 1 or rest[0] not in hints:
            key = ".".join(rest)
            raise _wrong(origin, f"{section}.{key}", value, f"unknown key{did_you_mean(key, hints)}")
        name = "handler" if section == "defaults" else section
        decoded = _decode(hints[rest[0]], value, f"{name}.{rest[0]}", f"{section}.{rest[0]}", origin)
        if SECTIONS[section] is AuthConfig:
            _check_hashes(rest[0], decoded, origin)
        self._store(section, rest[0], decoded, origin)

    def _set_handlers_key(self, name: str, key: str, value: Any, origin: Origin) -> None:
        shown = f"handlers.{name}.{key}"
        if key in POLICY_KEYS:
            value = _decode(typing.get_type_hints(HandlerPolicy)[key], value, f"handler.{key}", shown, origin)
        elif origin.kind != "file":
            value = _loosely(value)
        self._handlers.setdefault(name, {})[key] = value
        self.origins[shown] = origin

    def _store(self, section: str, key: str, value: Any, origin: Origin) -> None:
        self._sections.setdefault(section, {})[key] = value
        self.origins[f"{section}.{key}"] = origin

    def _known_section(self, section: str, origin: Origin) -> None:
        if section not in SECTIONS:
            hint = did_you_mean(section, [*SECTIONS, "handlers", "data_dir"])
            raise ConfigError(f"{_place(origin)}: [{section}]: unknown section{hint}")


def _decode(kind: Any, value: Any, key: str, shown: str, origin: Origin) -> Any:
    """Return ``value`` as the type of its key; texts come from the environment and from flags as well."""
    try:
        return _convert(kind, value, key)
    except (ValueError, TypeError) as error:
        raise _wrong(origin, shown, value, str(error)) from None


def _convert(kind: Any, value: Any, key: str) -> Any:
    if key == "memory.headroom":
        return _headroom(value)
    if key == "memory.limit" and value == "auto":
        return None
    if key in SIZES:
        return _at_least(parse_size(int(value) if isinstance(value, str) and value.isdigit() else value), key)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        if value == "never" and float in arguments:
            return None
        return _convert(next(argument for argument in arguments if argument is not type(None)), value, key)
    if origin is typing.Literal:
        if value not in arguments:
            hint = did_you_mean(value, arguments) if isinstance(value, str) else ""
            raise ValueError(f"has to be one of {', '.join(arguments)}{hint if '?' in hint else ''}")
        return value
    if origin is tuple:
        items = [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value
        if not isinstance(items, list):
            raise ValueError("has to be a list")
        return tuple(_convert(arguments[0], item, key) for item in items)
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
            raise ValueError("has to be a table of texts")
        return dict(value)
    return _CONVERTERS[kind](value, key)


def _boolean(value: Any, key: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    if not isinstance(value, bool):
        raise TypeError("has to be true or false")
    return value


def _integer(value: Any, key: str) -> int:
    if isinstance(value, str) and value.strip().lstrip("-").isdigit():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("has to be a whole number")
    if key == "server.port" and not 0 <= value <= 65535:
        raise ValueError("has to be a port, from 0 to 65535")
    return _at_least(value, key)


def _at_least(value: int, key: str) -> int:
    least = MINIMA.get(key, 0)
    if value < least:
        raise ValueError(f"has to be {least} or more")
    return value


def _path(value: Any, key: str) -> Path:
    return Path(_plain(value, key)).expanduser()


def _plain(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("has to be a text")
    return value


def _seconds(value: Any, key: str) -> float:
    return parse_duration(value)


_CONVERTERS: dict[Any, Callable[[Any, str], Any]] = {
    bool: _boolean,
    int: _integer,
    float: _seconds,
    str: _plain,
    Path: _path,
}


def _headroom(value: Any) -> float | int:
    if isinstance(value, str) and value.strip().endswith("%"):
        share = float(value.strip().rstrip("%")) / 100
        if not 0 <= share < 1:
            raise ValueError("has to be from 0% to less than 100%")
        return share
    return parse_size(int(value) if isinstance(value, str) and value.isdigit() else value)


def _check_hashes(key: str, value: Any, origin: Origin) -> None:
    for entry in value if isinstance(value, tuple) else (value,):
        if entry is not None and not (entry.startswith("sha256:") and len(entry) == 71):
            raise ConfigError(
                f"{_place(origin)}: auth.{key} has a value that is no hash; keys stand in a file only as "
                "sha256:HEX (`handler-host config hash` makes one), or in clear in "
                f"{KEYS_VARIABLE if key == 'api_keys' else TOKEN_VARIABLE}"
            )


def _loosely(text: Any) -> Any:
    """Return what a text from the environment means for a handler's own key: JSON where it is JSON."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, TypeError):
        return text


def _text(value: Any, key: str, origin: Origin) -> str:
    if not isinstance(value, str) or not value:
        raise _wrong(origin, key, value, "has to be a text")
    return value


def _wrong(origin: Origin, key: str, value: Any, text: str) -> ConfigError:
    shown = "(hidden)" if key.startswith("auth.") else repr(value)
    return ConfigError(f"{_place(origin)}: {key} = {shown}: {text}")


def _place(origin: Origin) -> str:
    return f"environment variable {origin.name}" if origin.kind == "environment" else origin.name
