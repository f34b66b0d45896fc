"""The handler's checked configuration: spreadsheet, credentials, limits and times."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from handler_host.plugin import ConfigError, Secret
from sheets.schema import LOG, USERS, Tab, check_columns, make_tabs

Backend = Literal["auto", "local", "google"]
SCOPE = "https://www.googleapis.com/auth/spreadsheets"
"""The narrowest scope that can write into a spreadsheet; no part of Drive."""
KEY_SECRET, FILE_SECRET = "GOOGLE_SERVICE_ACCOUNT_JSON", "GOOGLE_APPLICATION_CREDENTIALS"

_URL = re.compile(r"/spreadsheets/d/([A-Za-z0-9_-]+)")
_ID = re.compile(r"[A-Za-z0-9_-]{3,}")
_REMEDY = (
    f"set {KEY_SECRET} (the JSON of a service account's key), credentials_file or {FILE_SECRET} (the path of one), "
    "or application_default = true"
)


@dataclass(frozen=True)
class Credentials:
    """Key of a service account, or a file; with neither, google-auth finds its own credentials."""

    key: Mapping[str, Any] | None = field(default=None, repr=False)
    path: Path | None = None


@dataclass(frozen=True)
class Settings:
    """``[handlers.sheets]``: see ``handler.toml`` for the keys."""

    backend: Backend
    spreadsheet: str | None
    credentials: Credentials | None
    tabs: Mapping[str, Tab]
    endpoint: str
    new_users: str
    cache_age: float
    flush_after: float
    batch_rows: int
    settle: float
    timeout: float
    reads_per_minute: int
    writes_per_minute: int
    retry_first: float
    retry_longest: float
    log_cache: int

    @property
    def missing(self) -> str | None:
        """The setting that is missing for Google, with the remedy, or None."""
        if self.spreadsheet is None:
            return "spreadsheet is missing: set spreadsheet in [handlers.sheets] to its URL or number"
        if self.credentials is None:
            return f"credentials are missing: {_REMEDY}"
        return None


def read_settings(config: Mapping[str, Any], secrets: Mapping[str, Secret]) -> Settings:
    """Check the configuration; raises ``ConfigError``."""
    titles = {name: config[f"{name}_tab"] for name in ("users", "log", "states")}
    if len(set(titles.values())) < len(titles) or not all(map(str.strip, titles.values())):
        raise ConfigError(f"users_tab, log_tab and states_tab must be three different names, but are {titles}")
    try:
        extra = {
            "users": check_columns("users", USERS, config["users_columns"]),
            "log": check_columns("log", LOG, config["log_columns"]),
        }
    except ValueError as error:
        raise ConfigError(f"[handlers.sheets] {error}") from None
    same = ("endpoint", "new_users", "cache_age", "flush_after", "batch_rows", "settle", "timeout")
    more = ("reads_per_minute", "writes_per_minute", "retry_first", "retry_longest", "log_cache", "backend")
    return Settings(
        spreadsheet=_spreadsheet(config.get("spreadsheet")),
        credentials=_credentials(config, secrets),
        tabs=make_tabs(titles, extra),
        **{name: config[name] for name in (*same, *more)},
    )


def _spreadsheet(text: str | None) -> str | None:
    """Return the number of a spreadsheet from its URL or number."""
    if not text:
        return None
    match = _URL.search(text)
    number = match.group(1) if match else text
    if _ID.fullmatch(number) is None:
        raise ConfigError(f"spreadsheet = {text!r} is neither a URL of a spreadsheet nor the number in one")
    return number


def _credentials(config: Mapping[str, Any], secrets: Mapping[str, Secret]) -> Credentials | None:
    inline = secrets.get(KEY_SECRET)
    if inline:
        return Credentials(key=_key(inline.reveal(), KEY_SECRET))
    for place, path in (
        ("credentials_file", config.get("credentials_file")),
        (FILE_SECRET, secrets[FILE_SECRET].reveal() if secrets.get(FILE_SECRET) else None),
    ):
        if path:
            return _file(Path(path).expanduser(), place)
    return Credentials() if config["application_default"] else None


def _file(path: Path, place: str) -> Credentials:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{place}: {path} cannot be read: {reason}") from None
    try:
        kind = json.loads(text).get("type")
    except (ValueError, AttributeError):
        raise ConfigError(f"{place}: {path} is not JSON with credentials") from None
    # google-auth itself reads other kinds (of a user, of a federation).
    return Credentials(key=_key(text, place)) if kind == "service_account" else Credentials(path=path)


def _key(text: str, place: str) -> Mapping[str, Any]:
    """Return a service account's key; errors repeat no part of it."""
    try:
        key = json.loads(text)
    except ValueError:
        raise ConfigError(f"{place} is not JSON; set it to the whole content of a service account's key file") from None
    required = ("client_email", "private_key", "token_uri")
    missing = [name for name in required if not isinstance(key, dict) or not isinstance(key.get(name), str)]
    if missing:
        raise ConfigError(f"{place} is not a service account's key: {', '.join(missing)} missing")
    service_account: Mapping[str, Any] = key
    return service_account
