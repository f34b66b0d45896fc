"""Reads the configuration: a TOML file, then the environment, then flags; each overrides the one before.

All problems end in one :class:`handler_host.plugin.errors.ConfigError`, one line each: the place (file
and line, variable or flag), the key, the value, and the nearest valid one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from handler_host._internal.source_location import lines_of, place_in_toml
from handler_host._internal.suggestions import did_you_mean, nearest
from handler_host.config import POLICY_KEYS, Config, HandlerPolicy, default_data_dir, looks_secret
from handler_host.config.cross_checks import check_together
from handler_host.config.instance import INSTANCE_KEYS, VARIABLE
from handler_host.config.launchers import LAUNCHER_KEYS, LauncherConfig
from handler_host.config.model_aliases import ModelAlias
from handler_host.config.model_info import read_model_info
from handler_host.config.shared import find_url_flaw
from handler_host.config.text_file import read_text
from handler_host.config.toml_file import parse_toml
from handler_host.config.values import SECTIONS, InvalidValue, convert, json_or_text, keys_of, show
from handler_host.plugin.errors import ConfigError

PREFIX = "HANDLER_HOST_"
KEYS_VARIABLE = PREFIX + "API_KEYS"
PORT_VARIABLE = "PORT"
"""Variable in which Heroku, Render, Railway, Cloud Run and others name the port; the file and flags override it."""
TOKEN_VARIABLE = PREFIX + "ADMIN_TOKEN"
CONSUMERS_VARIABLE = PREFIX + "CONSUMERS"
MODELS_VARIABLE = PREFIX + "MODELS"
_WHOLE_VARIABLES = frozenset({KEYS_VARIABLE, TOKEN_VARIABLE, CONSUMERS_VARIABLE, MODELS_VARIABLE})
OTHER_VARIABLES = _WHOLE_VARIABLES | {PREFIX + "API_KEY", PREFIX + "URL", PREFIX + "CONFIG"}
"""Variables of the project that are not configuration keys."""

_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_SERVICE_LINK = re.compile(r"(SERVICE_HOST|(SERVICE_)?PORT(_[A-Z0-9_]+)?)")
"""Variables that Kubernetes adds to the environment for a Service called handler-host."""


class Origin(NamedTuple):
    """The source of a value: ``file``, ``environment`` or ``flag``, and its name there."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"environment variable {self.name}" if self.kind == "environment" else self.name


class LoadedConfig(NamedTuple):
    """A configuration, and the origin of each key that is set (``server.port``)."""

    config: Config
    origins: Mapping[str, Origin]


def load_config(
    path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, Any] | None = None
) -> LoadedConfig:
    """Return the configuration in force.

    ``overrides`` are flags, by key (``server.port``), as texts or as values.
    Raises :class:`ConfigError` with all problems.
    """
    reader = _Reader()
    if path is not None:
        reader.add_file(path)
    reader.add_environment(environ)
    reader.add_flags(overrides or {})
    return LoadedConfig(reader.build(path), reader.origins)


def hash_key(key: str) -> str:
    """Return the hash of a key as a file has it: a plain digest, because keys are long and random."""
    return "sha256:" + hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _hash_keys(text: str) -> tuple[str, ...]:
    """Return the hashes of keys in clear that commas separate."""
    return tuple(hash_key(key.strip()) for key in text.split(",") if key.strip())


def take_keys(environ: dict[str, str]) -> dict[str, str | tuple[str, ...]]:
    """Remove the keys in clear from ``environ``; return their hashes as overrides of :func:`load_config`."""
    hashes: dict[str, str | tuple[str, ...]] = {}
    if keys := _hash_keys(environ.pop(KEYS_VARIABLE, "")):
        hashes["auth.api_keys"] = keys
    if token := environ.pop(TOKEN_VARIABLE, "").strip():
        hashes["auth.admin_token"] = hash_key(token)
    return hashes


class _Problem(Exception):
    """A problem with one value."""


class _Reader:
    """Collects values and their problems; a later value overrides an earlier one."""

    def __init__(self) -> None:
        self.origins: dict[str, Origin] = {}
        self._values: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
        self._handlers: dict[str, dict[str, Any]] = {}
        self._launchers: dict[str, dict[str, Any]] = {}
        self._models: dict[str, str] = {}
        self._data_dir: Path | None = None
        self._default_data_dir: Path | None = None
        self._text = ""
        self._lines: dict[tuple[str, ...], int] = {}
        self._base = Path()
        self._problems: list[str] = []

    def add_file(self, path: Path) -> None:
        """Read the file; raises :class:`ConfigError` if it is not readable as TOML."""
        origin = Origin("file", str(path))
        self._base = path.parent
        self._text = read_text(path, str(path), "give another file with --config")
        for section, value in parse_toml(self._text, str(path)).items():
            if section in ("handlers", "launchers") and isinstance(value, dict):
                tables = self._handlers if section == "handlers" else self._launchers
                for name, keys in value.items():
                    if isinstance(keys, dict):
                        tables.setdefault(name, {})
                        self._add_table((section, name), keys, origin)
                    else:
                        self._add((section, name), keys, origin)
            elif (section in SECTIONS or section == "models") and isinstance(value, dict):
                self._add_table((section,), value, origin)
            else:
                self._add((section,), value, origin)
        self._base = Path()

    def add_environment(self, environ: Mapping[str, str]) -> None:
        """Read the host's variables of the environment."""
        self._default_data_dir = default_data_dir(environ)
        if environ.get(PORT_VARIABLE, "").strip() and "port" not in self._values["server"]:
            self._add(("server", "port"), environ[PORT_VARIABLE], Origin("environment", PORT_VARIABLE))
        for variable, value in sorted(environ.items()):
            name = variable.removeprefix(PREFIX)
            if name == variable or name.startswith("SECRET_"):
                continue
            origin = Origin("environment", variable)
            if variable in _WHOLE_VARIABLES:
                # An empty variable counts as unset: it must not open what the file locks.
                if value.strip():
                    self._add_whole_variable(variable, value, origin)
            elif name == "DATA_DIR":
                self._add(("data_dir",), value, origin)
            elif "__" in name:
                self._add(self._path_of(name.lower().split("__")), value, origin)
            elif variable not in OTHER_VARIABLES and not _is_service_link(name, value):
                self._problems.append(f"{origin}: unknown variable{_nearest_variable(name)}")

    def add_flags(self, flags: Mapping[str, Any]) -> None:
        """Read flags, by key."""
        for key, value in flags.items():
            name = key.removeprefix("server.").replace(".", "-").replace("_", "-")
            self._add(tuple(key.split(".")), value, Origin("flag", f"--{name}"))

    def build(self, path: Path | None) -> Config:
        """Return the configuration; raises :class:`ConfigError` with all problems."""
        if not self._problems:
            for key, problem in check_together(self._values, self._handlers, self._launchers):
                self._problems.append(f"{self._place(key.split('.'), self.origins[key])}: {problem}")
        if self._problems:
            raise ConfigError("\n".join(self._problems))
        sections: dict[str, Any] = {name: kind(**self._values[name]) for name, kind in SECTIONS.items()}
        return Config(
            **sections,
            data_dir=self._data_dir or self._default_data_dir,
            models=self._models,
            handlers=self._handlers,
            launchers=self._launchers,
            source=path,
        )

    def _place(self, path: Sequence[str], origin: Origin) -> str:
        """Return the place of a key for a message; of the file with its line."""
        self._lines = self._lines or lines_of(self._text)
        return place_in_toml(origin.name, self._lines, path) if origin.kind == "file" else str(origin)

    def _add_table(self, place: tuple[str, ...], table: Mapping[str, Any], origin: Origin) -> None:
        for key, value in table.items():
            self._add((*place, key), value, origin)

    def _add_whole_variable(self, variable: str, value: str, origin: Origin) -> None:
        """Add a variable that is not named after a key: one with keys in clear, or a whole table."""
        if variable == KEYS_VARIABLE:
            if keys := _hash_keys(value):
                self._store("auth", "api_keys", keys, origin)
        elif variable == TOKEN_VARIABLE:
            self._store("auth", "admin_token", hash_key(value.strip()), origin)
        elif variable == CONSUMERS_VARIABLE:
            self._store("auth", "consumers", value, origin)
        else:
            self._add_models(value, origin)

    def _add_models(self, text: str, origin: Origin) -> None:
        """Add the aliases of a variable to those of the file; names of models do not fit into names of variables."""
        models = json_or_text(text)
        if isinstance(models, dict):
            self._add_table(("models",), models, origin)
        else:
            self._problems.append(f'{origin}: must be JSON, such as {{"claude-*": "gpt_b"}}')

    def _add(self, path: tuple[str, ...], value: Any, origin: Origin) -> None:
        """Decode and keep one value, or keep its problem."""
        try:
            if path[0] == "models":
                self._store_model(path[1:], value, origin)
            else:
                self._store_path(path, value, origin)
        except _Problem as problem:
            key = ".".join(path)
            hidden = path[0] in ("auth", "shared") or any(map(looks_secret, path)) or isinstance(value, dict)
            self._problems.append(
                f"{self._place(path, origin)}: {key}{'' if hidden else f' = {show(value)}'}: {problem}"
            )

    def _store_path(self, path: tuple[str, ...], value: Any, origin: Origin) -> None:
        match path:
            case ("data_dir",):
                self._data_dir = self._convert(Path, value, origin)
                self.origins["data_dir"] = origin
            case ("handlers", name, key):
                self._store_of_handler(name, key, value, origin)
            case ("launchers", name, key):
                self._store_of_launcher(name, key, value, origin)
            case ("handlers" | "launchers" as section, *names):
                raise _Problem(_table_form(section, names, origin))
            case ("catalog", "pins") | ("log", "levels") if isinstance(value, dict):
                self._add_table(path, value, origin)
            case ("catalog" as section, "pins" as key, handler) | ("log" as section, "levels" as key, handler):
                table = self._values[section].get(key, {})
                entry = self._convert(keys_of(SECTIONS[section])[key], {handler: value}, origin)
                self._store(section, key, {**table, **entry}, origin)
            case (section, key) if section in SECTIONS and key in keys_of(SECTIONS[section]):
                decoded = self._convert(keys_of(SECTIONS[section])[key], value, origin)
                _check_secret(path, decoded, is_file=origin.kind == "file")
                self._store(section, key, decoded, origin)
            case (section, *rest) if section in SECTIONS:
                raise _Problem(_unknown_key(".".join(rest), section) if rest else f"must be a table, [{section}]")
            case (key,) if not isinstance(value, dict):
                raise _Problem(f"unknown key{_home_of(key)}")
            case (word, *_):
                raise _Problem(f"unknown section{did_you_mean(word, [*SECTIONS, 'models', 'handlers', 'launchers'])}")

    def _store_model(self, path: tuple[str, ...], target: Any, origin: Origin) -> None:
        if len(path) != 1:
            raise _Problem(f"must be a table, [models], or JSON in {MODELS_VARIABLE}")
        name = path[0]
        if isinstance(target, dict):
            raise _Problem(f'must be a text; write a name with dots in quotes: "{name}.{next(iter(target), "")}"')
        target = self._convert(str, target, origin)
        try:
            ModelAlias(name, target)
        except ValueError as error:
            raise _Problem(str(error)) from None
        self._models[name] = target
        self.origins[f"models.{name}"] = origin

    def _store_of_handler(self, name: str, key: str, value: Any, origin: Origin) -> None:
        if key in POLICY_KEYS:
            value = self._convert(keys_of(HandlerPolicy)[key], value, origin)
            if key == "fallback":
                _check_fallback(name, value)
        elif key in INSTANCE_KEYS:
            value = self._instance_value(key, value, origin)
        elif origin.kind == "environment":
            value = json_or_text(value)
        self._handlers.setdefault(name, {})[key] = value
        self.origins[f"handlers.{name}.{key}"] = origin

    def _store_of_launcher(self, name: str, key: str, value: Any, origin: Origin) -> None:
        if key in LAUNCHER_KEYS:
            value = self._convert(keys_of(LauncherConfig)[key], value, origin)
        elif origin.kind == "environment":
            value = json_or_text(value)
        self._launchers.setdefault(name, {})[key] = value
        self.origins[f"launchers.{name}.{key}"] = origin

    def _instance_value(self, key: str, value: Any, origin: Origin) -> Any:
        if key in ("plugin", "title"):
            return self._convert(str, value, origin)
        if origin.kind == "environment":
            value = json_or_text(value)
        if key == "preset":
            from handler_host.config.preset import parse_preset  # only with presets

            _check_value(parse_preset, value)
        elif key == "known_models":
            if not isinstance(value, dict):
                raise _Problem("must be tables, [handlers.NAME.known_models.MODEL]")
            for model, table in value.items():
                _check_value(read_model_info, table, f"{model}: ")
        else:
            names = value.values() if isinstance(value, dict) else value
            if not isinstance(value, dict | list) or not all(
                isinstance(name, str) and VARIABLE.fullmatch(name) for name in names
            ):
                raise _Problem(
                    'must be a table of names of environment variables, such as { API_KEY = "MY_API_KEY" }, or the '
                    'list of the only secrets that it receives, such as ["API_KEY"]'
                )
            return value if isinstance(value, dict) else tuple(value)
        return value

    def _convert(self, annotation: Any, value: Any, origin: Origin) -> Any:
        try:
            return convert(annotation, value, text=origin.kind != "file", base=self._base)
        except InvalidValue as error:
            raise _Problem(str(error)) from None

    def _store(self, section: str, key: str, value: Any, origin: Origin) -> None:
        self._values[section][key] = value
        self.origins[f"{section}.{key}"] = origin

    def _path_of(self, parts: list[str]) -> tuple[str, ...]:
        """Return the path that a variable sets; ``MY_GPT`` also stands for ``my-gpt`` of the file."""
        if len(parts) == 3 and (parts[0] == "handlers" or parts[:2] in (["catalog", "pins"], ["log", "levels"])):
            index = 1 if parts[0] == "handlers" else 2
            known = {re.sub(r"[^a-z0-9]", "_", name.lower()): name for name in self._handlers}
            parts[index] = known.get(parts[index], parts[index])
        return tuple(parts)


def _check_value(check: Callable[[Any], object], value: Any, place: str = "") -> None:
    try:
        check(value)
    except ValueError as error:
        raise _Problem(f"{place}{error}") from None


def _check_secret(path: tuple[str, ...], value: Any, *, is_file: bool) -> None:
    """Raise :class:`_Problem` for a key whose value may be a secret in clear."""
    if path[-1] in ("api_keys", "admin_token"):
        _check_hashes(path[-1], value)
    if path == ("shared", "url") and (flaw := find_url_flaw(value, is_file=is_file)):
        raise _Problem(flaw)


def _check_hashes(key: str, value: str | tuple[str, ...]) -> None:
    for entry in (value,) if isinstance(value, str) else value:
        if _HASH.fullmatch(entry) is None:
            raise _Problem(
                "not a hash; write sha256:HEX (`handler-host config hash` makes it), or set the key in clear "
                f"in {KEYS_VARIABLE if key == 'api_keys' else TOKEN_VARIABLE}"
            )


def _check_fallback(name: str, fallbacks: tuple[str, ...]) -> None:
    if name in fallbacks:
        raise _Problem(f"{name} cannot be its own fallback; name other handlers")
    if len(set(fallbacks)) < len(fallbacks):
        raise _Problem("names a handler twice; name each once")


def _table_form(section: str, names: list[str], origin: Origin) -> str:
    if not names:
        return f"must be tables, [{section}.NAME]"
    is_variable = origin.kind == "environment"
    return f"must be {f'{PREFIX}{section.upper()}__NAME__KEY' if is_variable else f'a table, [{section}.{names[0]}]'}"


def _unknown_key(key: str, section: str) -> str:
    keys = keys_of(SECTIONS[section])
    hint = _home_of(key) if nearest(key, keys) is None else ""
    return f"unknown key{hint or did_you_mean(key, keys)}"


def _home_of(key: str) -> str:
    """Return a hint for a key in the wrong section, or nothing."""
    suggestion = nearest(key, [known for kind in SECTIONS.values() for known in keys_of(kind)])
    homes = [f"[{section}]" for section, kind in SECTIONS.items() if suggestion in keys_of(kind)]
    if "[defaults]" in homes:
        homes.append("[handlers.NAME]")
    return f"; did you mean {suggestion!r} in {' or '.join(homes)}?" if suggestion is not None else ""


def _nearest_variable(name: str) -> str:
    candidates = {variable.removeprefix(PREFIX): variable for variable in (*OTHER_VARIABLES, PREFIX + "DATA_DIR")}
    for section, kind in SECTIONS.items():
        for key in keys_of(kind):
            variable = f"{PREFIX}{section}__{key}".upper()
            candidates[f"{section}_{key}".upper()] = variable
            candidates.setdefault(key.upper(), variable)
    suggestion = nearest(name, candidates)
    if suggestion is None:
        return f"; write a key like {PREFIX}SERVER__PORT, with two underscores after the section"
    return f"; did you mean {candidates[suggestion]!r}?"


def _is_service_link(name: str, value: str) -> bool:
    is_link = name != "PORT" or value.startswith(("tcp://", "udp://", "sctp://"))
    return is_link and _SERVICE_LINK.fullmatch(name) is not None
