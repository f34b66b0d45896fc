"""Reads the configuration: a TOML file, then the environment, then flags, the later one stronger.

Whatever is wrong ends in one :class:`handler_host.plugin.errors.ConfigError`, with a line for each
problem: the place (file, variable or flag), the key, the value, and the nearest right one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from handler_host._internal.suggestions import did_you_mean, nearest
from handler_host._internal.units import format_duration, format_size
from handler_host.config import POLICY_KEYS, Config, HandlerPolicy, WorkersConfig, default_data_dir, looks_secret
from handler_host.config.listen import parse_listen
from handler_host.config.values import SECTIONS, WrongValue, convert, keys_of, shown
from handler_host.plugin.errors import ConfigError

PREFIX = "HANDLER_HOST_"
KEYS_VARIABLE = PREFIX + "API_KEYS"
TOKEN_VARIABLE = PREFIX + "ADMIN_TOKEN"
CONSUMERS_VARIABLE = PREFIX + "CONSUMERS"
OTHER_VARIABLES = frozenset(
    PREFIX + name for name in ("API_KEYS", "API_KEY", "ADMIN_TOKEN", "CONSUMERS", "URL", "CONFIG")
)
"""Variables of the project that are no configuration keys."""

_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_SERVICE_LINK = re.compile(r"(SERVICE_HOST|(SERVICE_)?PORT(_[A-Z0-9_]+)?)")
"""What Kubernetes adds to the environment where a Service is called handler-host."""


class Origin(NamedTuple):
    """Where a value comes from: ``file``, ``environment`` or ``flag``, and how it is named there."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"environment variable {self.name}" if self.kind == "environment" else self.name


class Loaded(NamedTuple):
    """A configuration, and where each of its keys was set (``server.port``); the others are defaults."""

    config: Config
    origins: Mapping[str, Origin]


def load_config(path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, Any] | None = None) -> Loaded:
    """Return what is in force.

    ``overrides`` are flags, by key (``server.port``), as texts or as values.
    Raises :class:`ConfigError`.
    """
    reader = _Reader()
    if path is not None:
        reader.add_file(path)
    reader.add_environment(environ)
    reader.add_flags(overrides or {})
    return Loaded(reader.build(path), reader.origins)


def hash_key(key: str) -> str:
    """Return how a key is kept in a file: it is long and random, so that a plain digest is enough."""
    return "sha256:" + hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


class _Problem(Exception):
    """What is wrong with one value."""


class _Reader:
    """Collects values from weak to strong, and what is wrong with them."""

    def __init__(self) -> None:
        self.origins: dict[str, Origin] = {}
        self._values: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
        self._handlers: dict[str, dict[str, Any]] = {}
        self._data_dir: Path | None = None
        self._default_data_dir: Path | None = None
        self._base = Path()
        self._problems: list[str] = []

    def add_file(self, path: Path) -> None:
        """Read the file; raises :class:`ConfigError` if it cannot be read as TOML."""
        origin = Origin("file", str(path))
        self._base = path.parent
        for section, value in _read_toml(path).items():
            if section == "handlers" and isinstance(value, dict):
                for name, keys in value.items():
                    if isinstance(keys, dict):
                        self._handlers.setdefault(name, {})
                        self._add_table(("handlers", name), keys, origin)
                    else:
                        self._add(("handlers", name), keys, origin)
            elif section in SECTIONS and isinstance(value, dict):
                self._add_table((section,), value, origin)
            else:
                self._add((section,), value, origin)
        self._base = Path()

    def add_environment(self, environ: Mapping[str, str]) -> None:
        """Take the variables of the host from the environment."""
        self._default_data_dir = default_data_dir(environ)
        for variable, value in sorted(environ.items()):
            name = variable.removeprefix(PREFIX)
            if name == variable or name.startswith("SECRET_"):
                continue
            origin = Origin("environment", variable)
            # An empty variable is as good as none: it must not open what the file locks.
            if variable == KEYS_VARIABLE:
                keys = tuple(hash_key(key.strip()) for key in value.split(",") if key.strip())
                if keys:
                    self._store("auth", "api_keys", keys, origin)
            elif variable == TOKEN_VARIABLE:
                if value.strip():
                    self._store("auth", "admin_token", hash_key(value.strip()), origin)
            elif variable == CONSUMERS_VARIABLE:
                if value.strip():
                    self._store("auth", "consumers", value, origin)
            elif name == "DATA_DIR":
                self._add(("data_dir",), value, origin)
            elif "__" in name:
                self._add(self._path_of(name.lower().split("__")), value, origin)
            elif variable not in OTHER_VARIABLES and not _is_service_link(name, value):
                self._problems.append(f"{origin}: unknown variable{_nearest_variable(name)}")

    def add_flags(self, flags: Mapping[str, Any]) -> None:
        """Take flags by key."""
        for key, value in flags.items():
            name = key.removeprefix("server.").replace(".", "-").replace("_", "-")
            self._add(tuple(key.split(".")), value, Origin("flag", f"--{name}"))

    def build(self, path: Path | None) -> Config:
        """Return the configuration; raises :class:`ConfigError` with all that was wrong."""
        if not self._problems:
            self._check_together()
        if self._problems:
            raise ConfigError("\n".join(self._problems))
        sections: dict[str, Any] = {name: kind(**self._values[name]) for name, kind in SECTIONS.items()}
        return Config(
            **sections, data_dir=self._data_dir or self._default_data_dir, handlers=self._handlers, source=path
        )

    def _add_table(self, place: tuple[str, ...], table: Mapping[str, Any], origin: Origin) -> None:
        for key, value in table.items():
            self._add((*place, key), value, origin)

    def _add(self, path: tuple[str, ...], value: Any, origin: Origin) -> None:
        """Decode one value and keep it, or note what is wrong with it."""
        try:
            self._take(path, value, origin)
        except _Problem as problem:
            key = ".".join(path)
            hidden = path[0] == "auth" or any(map(looks_secret, path)) or isinstance(value, dict)
            self._problems.append(f"{origin}: {key}{'' if hidden else f' = {shown(value)}'}: {problem}")

    def _take(self, path: tuple[str, ...], value: Any, origin: Origin) -> None:
        match path:
            case ("data_dir",):
                self._data_dir = self._convert(Path, value, origin)
                self.origins["data_dir"] = origin
            case ("handlers", name, key):
                self._take_of_handler(name, key, value, origin)
            case ("handlers",):
                raise _Problem("has to be tables, [handlers.NAME]")
            case ("handlers", name, *_):
                wanted = (
                    f"{PREFIX}HANDLERS__NAME__KEY" if origin.kind == "environment" else f"a table, [handlers.{name}]"
                )
                raise _Problem(f"has to be {wanted}")
            case ("catalog", "pins") | ("log", "levels") if isinstance(value, dict):
                self._add_table(path, value, origin)
            case ("catalog" as section, "pins" as key, handler) | ("log" as section, "levels" as key, handler):
                of_others = self._values[section].get(key, {})
                own = self._convert(keys_of(SECTIONS[section])[key], {handler: value}, origin)
                self._store(section, key, {**of_others, **own}, origin)
            case (section, key) if section in SECTIONS and key in keys_of(SECTIONS[section]):
                decoded = self._convert(keys_of(SECTIONS[section])[key], value, origin)
                if key in ("api_keys", "admin_token"):
                    _check_hashes(key, decoded)
                self._store(section, key, decoded, origin)
            case (section, *rest) if section in SECTIONS:
                raise _Problem(_unknown_key(".".join(rest), section) if rest else f"has to be a table, [{section}]")
            case (key,) if not isinstance(value, dict):
                raise _Problem(f"unknown key{_home_of(key)}")
            case (word, *_):
                raise _Problem(f"unknown section{did_you_mean(word, [*SECTIONS, 'handlers'])}")

    def _take_of_handler(self, name: str, key: str, value: Any, origin: Origin) -> None:
        if key in POLICY_KEYS:
            value = self._convert(keys_of(HandlerPolicy)[key], value, origin)
            if key == "fallback":
                _check_fallback(name, value)
        elif origin.kind == "environment":
            value = _loosely(value)
        self._handlers.setdefault(name, {})[key] = value
        self.origins[f"handlers.{name}.{key}"] = origin

    def _convert(self, annotation: Any, value: Any, origin: Origin) -> Any:
        try:
            return convert(annotation, value, text=origin.kind != "file", base=self._base)
        except WrongValue as error:
            raise _Problem(str(error)) from None

    def _store(self, section: str, key: str, value: Any, origin: Origin) -> None:
        self._values[section][key] = value
        self.origins[f"{section}.{key}"] = origin

    def _path_of(self, parts: list[str]) -> tuple[str, ...]:
        """Return the path that a variable means; ``MY_GPT`` is also how ``my-gpt`` of the file is written there."""
        if len(parts) == 3 and (parts[0] == "handlers" or parts[:2] in (["catalog", "pins"], ["log", "levels"])):
            index = 1 if parts[0] == "handlers" else 2
            known = {re.sub(r"[^a-z0-9]", "_", name.lower()): name for name in self._handlers}
            parts[index] = known.get(parts[index], parts[index])
        return tuple(parts)

    def _check_together(self) -> None:
        """Check the keys that bound each other."""
        workers = WorkersConfig(**self._values["workers"])
        interval, patience = workers.heartbeat_interval, workers.hang_after
        if patience < 2 * interval:
            place = self.origins.get("workers.hang_after") or self.origins["workers.heartbeat_interval"]
            self._problems.append(
                f"{place}: workers.hang_after is {format_duration(patience)}: has to be at least twice "
                f"workers.heartbeat_interval ({format_duration(interval)}), or every worker is taken for hung"
            )
        try:
            parse_listen(self._values["admin"].get("listen") or "127.0.0.1:0")
        except ValueError as error:
            listen = self._values["admin"]["listen"]
            self._problems.append(f"{self.origins['admin.listen']}: admin.listen = {shown(listen)}: {error}")
        limit, headroom = self._values["memory"].get("limit"), self._values["memory"].get("headroom")
        if limit is not None and isinstance(headroom, int) and headroom >= limit:
            self._problems.append(
                f"{self.origins['memory.headroom']}: memory.headroom is {format_size(headroom)}: has to be less than "
                f"memory.limit ({format_size(limit)})"
            )


def _read_toml(path: Path) -> dict[str, Any]:
    import tomllib  # only where there is a file

    try:
        # An editor's byte order mark is no mistake of the user.
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; name another file with --config") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is no TOML: {error}") from error
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from error


def _check_hashes(key: str, value: str | tuple[str, ...]) -> None:
    for entry in (value,) if isinstance(value, str) else value:
        if _HASH.fullmatch(entry) is None:
            raise _Problem(
                "a value is no hash; keys stand here only as sha256:HEX (`handler-host config hash` makes one); "
                f"in clear they belong into {KEYS_VARIABLE if key == 'api_keys' else TOKEN_VARIABLE}"
            )


def _check_fallback(name: str, others: tuple[str, ...]) -> None:
    if name in others:
        raise _Problem(f"{name} cannot stand in for itself; name other handlers")
    if len(set(others)) < len(others):
        raise _Problem("names a handler twice; each is asked once")


def _unknown_key(key: str, section: str) -> str:
    keys = keys_of(SECTIONS[section])
    hint = _home_of(key) if nearest(key, keys) is None else ""
    return f"unknown key{hint or did_you_mean(key, keys)}"


def _home_of(key: str) -> str:
    """Return the end of a sentence on a key that stands in the wrong section, or nothing."""
    meant = nearest(key, [known for kind in SECTIONS.values() for known in keys_of(kind)])
    homes = [f"[{section}]" for section, kind in SECTIONS.items() if meant in keys_of(kind)]
    if "[defaults]" in homes:
        homes.append("[handlers.NAME]")
    return f"; did you mean {meant!r} in {' or '.join(homes)}?" if meant is not None else ""


def _nearest_variable(name: str) -> str:
    candidates = {variable.removeprefix(PREFIX): variable for variable in (*OTHER_VARIABLES, PREFIX + "DATA_DIR")}
    for section, kind in SECTIONS.items():
        for key in keys_of(kind):
            variable = f"{PREFIX}{section}__{key}".upper()
            candidates[f"{section}_{key}".upper()] = variable
            candidates.setdefault(key.upper(), variable)
    meant = nearest(name, candidates)
    if meant is None:
        return f"; keys are written as {PREFIX}SERVER__PORT, with two underscores after the section"
    return f"; did you mean {candidates[meant]!r}?"


def _is_service_link(name: str, value: str) -> bool:
    linked = name != "PORT" or value.startswith(("tcp://", "udp://", "sctp://"))
    return linked and _SERVICE_LINK.fullmatch(name) is not None


def _loosely(text: Any) -> Any:
    """Return what a text from the environment means for a handler's own key: JSON where it is JSON."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, TypeError):
        return text
