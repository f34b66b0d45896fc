"""The manifest ``handler.toml``: a plugin's description of itself, read without importing it.

The optional file stands beside the ``__init__.py`` of the entry point's package. An unknown
key or a wrong value is an error with the nearest valid one; the handler is then ``invalid``
with that reason.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Container, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from handler_host._internal import units, versions
from handler_host._internal.source_location import line_of, lines_of, place_in_toml
from handler_host._internal.suggestions import did_you_mean
from handler_host._internal.toml_error import explain_toml_error
from handler_host._internal.untrusted_toml import parse_untrusted_toml
from handler_host.catalog import settings
from handler_host.catalog.settings import Setting
from handler_host.catalog.worker_limit import check_worker_limit
from handler_host.config import HOST_KEYS, Config
from handler_host.config.instance import VARIABLE
from handler_host.config.model_info import ModelInfo, read_model_info
from handler_host.lean.requirement import check_module_name, parse_requirement
from handler_host.plugin.errors import ConfigError

API_MAJOR = 1
GROUP = f"handler_host.v{API_MAJOR}"
"""The entry point group of this host's API."""
FILE_NAME = "handler.toml"
SECTIONS = (
    "title",
    "description",
    "requires_host",
    "operations",
    "secrets",
    "config",
    "known_models",
    "memory",
    "timeouts",
    "workers",
    "lean",
)
MAX_BYTES = 256 * 1024
"""Longest manifest that is read, in bytes."""

_TYPICAL_BYTES = 8 * 1024

SECRET_NAME = VARIABLE
"""A secret is the environment variable of its name."""
OPERATION_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
MODEL_NAME = re.compile(r"\S+")
KEY = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_OWN_VARIABLES = "HANDLER_HOST_"

Read = TypeVar("Read")


class ManifestError(ConfigError):
    """A mistake in a manifest; the message has file, key, value and remedy."""


class OperationDeclaration(msgspec.Struct, frozen=True):
    """An operation as the manifest declares it."""

    summary: str = ""
    """A sentence for the list of handlers and the OpenAPI document."""
    retry_on_crash: bool = False
    """Whether a dispatch runs once more if its worker crashes before the first byte; for operations that may
    run twice."""


class SecretDeclaration(msgspec.Struct, frozen=True):
    """A secret as the manifest declares it; never its value."""

    required: bool = True
    """Whether the handler is ``missing-secret`` without it; true by default."""
    required_unless: tuple[str, ...] = ()
    """Settings and other secrets of which one does instead, like ``base_url``; the secret is not ``required`` then."""
    description: str = ""
    """A sentence for people who set it."""

    def has_alternative(self, names: Container[str]) -> bool:
        """Return whether ``names`` (secrets and settings that are set) has one that does instead of this secret."""
        return any(name in names for name in self.required_unless)


class Timeouts(msgspec.Struct, frozen=True):
    """The author's time limits in seconds; None leaves the limit to the host's configuration."""

    activate: float | None = None
    """Time for a worker to become ready."""
    first_byte: float | None = None
    """From the dispatch to the first chunk of a stream."""
    gap: float | None = None
    """Time between two chunks of a stream."""
    drain: float | None = None
    """Time for dispatches in flight to finish at an unload."""


class WorkersNote(msgspec.Struct, frozen=True):
    """The author's limits for several workers of the handler (``[workers]``)."""

    max: int | None = None
    """Workers that the handler may have at a time: 1 if two of them would disturb each other."""
    preload: tuple[str, ...] = ()
    """Modules that the fork server imports if the handler may have several workers, which then share them."""


class LeanNote(msgspec.Struct, frozen=True):
    """Packages of the plugin whose imports may be deferred (``[lean]``)."""

    packages: tuple[str, ...] = ()
    """Checked versions, like ``openai==2.54.0`` or ``python-dotenv==1.2.4: dotenv``."""
    eager: tuple[str, ...] = ()
    """Modules whose import must not be deferred."""
    environment: Mapping[str, str] = {}
    """Variables that the plugin sets before it imports the packages; the check of the packages sets them, too."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A valid manifest."""

    title: str = ""
    """Name of the handler for people."""
    description: str = ""
    """What the handler does, for people."""
    operations: dict[str, OperationDeclaration] | None = None
    """The handler's operations, by name; without them the worker reports its own at the first activation."""
    secrets: dict[str, SecretDeclaration] = {}
    """Environment variables that the handler may see, by name."""
    config: dict[str, Setting] = {}
    """The handler's own keys of ``[handlers.NAME]``."""
    memory_estimate: int | None = None
    """Bytes of PSS to reserve for an activation."""
    timeouts: Timeouts = Timeouts()
    """Time limits for this handler; the host's configuration overrides them."""
    workers: WorkersNote = WorkersNote()
    """Limits for several workers."""
    known_models: dict[str, ModelInfo] = {}
    """Facts about models of the provider, by name, for the lists of models."""
    lean: LeanNote = LeanNote()
    """Packages whose imports a worker may defer."""
    requires_host: str | None = None
    """Range of supported host versions, like ``>=0.1,<1``."""


@functools.lru_cache(maxsize=256)  # most manifests are unchanged at a rescan, and parsing them took 40 % of it
def parse_manifest(data: str | bytes, path: str) -> Manifest:
    """Parse the text of a manifest; ``path`` is for messages. Raises :class:`ManifestError`."""
    try:
        table = parse_untrusted_toml(data if isinstance(data, str) else data.decode())
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except ValueError as error:
        raise ManifestError(f"{path}: not valid TOML: {explain_toml_error(error)}; correct it there") from None
    except RecursionError:
        raise ManifestError(f"{path}: values are nested too deeply; a manifest needs a few levels") from None
    return _Reader(path, data if isinstance(data, str) else data.decode()).manifest(table)


def read_manifest(path: str) -> Manifest:
    """Read a manifest file; raises :class:`ManifestError`, also if the file cannot be read."""
    try:
        with open(path, "rb") as file:
            # In two steps: a buffer for the longest manifest costs more than the rest (page faults).
            data = file.read(_TYPICAL_BYTES)
            if len(data) == _TYPICAL_BYTES:
                data += file.read(MAX_BYTES + 1 - len(data))
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise ManifestError(f"{path} is longer than {MAX_BYTES // 1024} KiB; keep only the manifest in it")
    return parse_manifest(data, path)


def check_settings(manifest: Manifest | None, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the handler's own settings with the manifest's defaults of missing ones.

    ``where`` is the place of the settings for messages (``[handlers.gpt_a]``). Without a manifest
    all settings are valid. Raises :class:`handler_host.plugin.errors.ConfigError`.
    """
    if manifest is None:
        return dict(values)
    secrets = {name.lower(): name for name in manifest.secrets}
    for key in values:
        if key not in manifest.config and key.lower() in secrets:
            name = secrets[key.lower()]
            raise ConfigError(
                f"{where}: {key} is a secret; remove it here and set the environment variable {name}", param=key
            )
    return settings.check(manifest.config, values, where, other_keys=HOST_KEYS)


def check_configured(manifest: Manifest | None, config: Config, name: str) -> dict[str, Any]:
    """Return the configured settings of a handler with defaults, see :func:`check_settings`.

    Raises :class:`handler_host.plugin.errors.ConfigError` with file and line.
    """
    where = f"[handlers.{name}]"
    try:
        _check_secret_names(manifest, config.instance(name).secrets, where)
        check_worker_limit(config, name, manifest.workers.max if manifest is not None else None, where)
        return check_settings(manifest, config.settings(name), where)
    except ConfigError as error:
        key = () if error.param is None else (error.param,)
        raise ConfigError(f"{place_of(config.source, ('handlers', name, *key))}{error.message}") from None


def _check_secret_names(manifest: Manifest | None, secrets: Collection[str], where: str) -> None:
    declared = manifest.secrets if manifest is not None else {}
    for name in secrets:
        if name not in declared:
            hint = did_you_mean(name, declared) or "; the plugin declares no secrets"
            raise ConfigError(f"{where}: secrets: unknown secret {name!r}{hint}", param="secrets")


def place_of(source: Path | None, key: tuple[str, ...]) -> str:
    """Return file and line of a key as the start of a message; empty for a key from the environment."""
    try:
        line = line_of(source.read_text(encoding="utf-8-sig"), key) if source is not None else None
    except (OSError, UnicodeDecodeError):
        line = None
    return "" if line is None else f"{source}:{line}: "


class _Reader:
    """Reader of one manifest's tables; each method raises :class:`ManifestError`."""

    def __init__(self, path: str, text: str) -> None:
        self._path = path
        self._text_of_file = text

    def manifest(self, table: dict[str, Any]) -> Manifest:
        self._known("", table, SECTIONS)
        memory = self._table("memory", table.get("memory", {}))
        self._known("memory", memory, ("estimate",))
        timeouts = self._table("timeouts", table.get("timeouts", {}))
        self._known("timeouts", timeouts, Timeouts.__struct_fields__)
        operations = self._each("operations", table, OPERATION_NAME, self._operation) if "operations" in table else None
        estimate = self._amount("memory.estimate", memory["estimate"], units.parse_size) if memory else None
        workers = self._table("workers", table.get("workers", {}))
        self._known("workers", workers, WorkersNote.__struct_fields__)
        lean = self._table("lean", table.get("lean", {}))
        self._known("lean", lean, LeanNote.__struct_fields__)
        config = self._settings(table)
        secrets = self._each("secrets", table, SECRET_NAME, self._secret)
        for name, secret in secrets.items():
            for alternative in secret.required_unless:
                if alternative not in config and alternative not in secrets:
                    hint = did_you_mean(alternative, {*config, *secrets})
                    text = f"{alternative!r} is neither a setting nor a secret of this manifest{hint}"
                    raise self._error(f"secrets.{name}.required_unless", text)
        return Manifest(
            title=self._text("title", table.get("title", "")),
            description=self._text("description", table.get("description", "")),
            requires_host=self._range(table.get("requires_host")),
            operations=operations,
            secrets=secrets,
            config=config,
            known_models=self._each("known_models", table, MODEL_NAME, self._model),
            memory_estimate=estimate,
            timeouts=Timeouts(
                **{key: self._amount(f"timeouts.{key}", value, units.parse_duration) for key, value in timeouts.items()}
            ),
            workers=WorkersNote(
                self._count("workers.max", workers["max"]) if "max" in workers else None,
                self._names("workers.preload", workers.get("preload", []), check_module_name),
            ),
            lean=LeanNote(
                self._names("lean.packages", lean.get("packages", []), parse_requirement),
                self._names("lean.eager", lean.get("eager", []), check_module_name),
                {
                    name: self._text(f"lean.environment.{name}", value)
                    for name, value in self._table("lean.environment", lean.get("environment", {})).items()
                },
            ),
        )

    def _operation(self, key: str, table: dict[str, Any]) -> OperationDeclaration:
        self._known(key, table, OperationDeclaration.__struct_fields__)
        summary = self._text(f"{key}.summary", table.get("summary", ""))
        return OperationDeclaration(
            summary, self._yes_or_no(f"{key}.retry_on_crash", table.get("retry_on_crash", False))
        )

    def _secret(self, key: str, table: dict[str, Any]) -> SecretDeclaration:
        self._known(key, table, SecretDeclaration.__struct_fields__)
        if key.removeprefix("secrets.").startswith(_OWN_VARIABLES):
            raise self._error(key, f"names that begin with {_OWN_VARIABLES} belong to the host; choose another name")
        required_unless = self._names(f"{key}.required_unless", table.get("required_unless", []), str)
        return SecretDeclaration(
            required=self._yes_or_no(f"{key}.required", table.get("required", not required_unless)),
            required_unless=required_unless,
            description=self._text(f"{key}.description", table.get("description", "")),
        )

    def _model(self, key: str, table: dict[str, Any]) -> ModelInfo:
        try:
            return ModelInfo(**read_model_info(table))
        except ValueError as error:
            raise self._error(key, str(error)) from None

    def _settings(self, table: dict[str, Any]) -> dict[str, Setting]:
        declared = self._each("config", table, KEY, self._setting)
        for key in declared:
            if key in HOST_KEYS:
                text = f"{key!r} is a key of the host in [handlers.NAME]; choose another name"
                raise self._error(f"config.{key}", text)
        return declared

    def _setting(self, key: str, table: dict[str, Any]) -> Setting:
        self._known(key, table, settings.KEYS)
        try:
            return settings.declare(table)
        except settings.DeclarationError as error:
            raise self._error(f"{key}.{error.key}", error.text) from None

    def _each(
        self, section: str, table: dict[str, Any], names: re.Pattern[str], read: Callable[[str, dict[str, Any]], Read]
    ) -> dict[str, Read]:
        """Read each sub-table of a section."""
        values: dict[str, Read] = {}
        for name, value in self._table(section, table.get(section, {})).items():
            key = f"{section}.{name}"
            if names.fullmatch(name) is None:
                raise self._error(section, f"{name!r} is not a valid name; it must match {names.pattern}")
            values[name] = read(key, self._table(key, value))
        return values

    def _table(self, key: str, value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._error(key, f"{value!r} is not a table; write a section [{key}]")
        return value

    def _yes_or_no(self, key: str, value: object) -> bool:
        if not isinstance(value, bool):
            raise self._error(key, f"{value!r} is neither true nor false")
        return value

    def _text(self, key: str, value: object) -> str:
        if not isinstance(value, str):
            raise self._error(key, f'{value!r} is not a text; write {key.rpartition(".")[2]} = "..."')
        return value

    def _names(self, key: str, value: object, check: Callable[[str], object]) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._error(key, f'{value!r} is not a list of texts; write {key.rpartition(".")[2]} = ["..."]')
        for item in value:
            try:
                check(item)
            except ValueError as error:
                raise self._error(key, str(error)) from None
        return tuple(value)

    def _count(self, key: str, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._error(key, f"{value!r} is not a whole number of at least 1")
        return value

    def _amount(self, key: str, value: object, parse: Callable[[Any], Read]) -> Read:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self._error(key, f"{value!r} is neither a number nor a text")
        try:
            return parse(value)
        except (ValueError, OverflowError) as error:
            raise self._error(key, str(error)) from None

    def _range(self, value: object) -> str | None:
        if value is None:
            return None
        text = self._text("requires_host", value)
        try:
            versions.parse_range(text)
        except ValueError as error:
            raise self._error("requires_host", str(error)) from None
        return text

    def _known(self, section: str, table: dict[str, Any], known: Collection[str]) -> None:
        for key in table:
            if key not in known:
                place = f" in [{section}]" if section else ""
                where = self._where(f"{section}.{key}" if section else key)
                raise ManifestError(f"{where}: unknown key {key!r}{place}{did_you_mean(key, known)}")

    def _error(self, key: str, text: str) -> ManifestError:
        return ManifestError(f"{self._where(key)}: {key}: {text}")

    def _where(self, key: str) -> str:
        """Return file and line of the key, or of the innermost table around it that has a line."""
        return place_in_toml(self._path, lines_of(self._text_of_file), key.split("."))
