"""gspread's client: its credentials, its endpoint, and the meaning of its exceptions."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

from handler_host.plugin import parse_retry_after
from sheets.book import BookError, Effect
from sheets.settings import SCOPE, Settings

GOOGLE = "https://sheets.googleapis.com"
CONNECT_TIMEOUT = 10.0
"""Seconds to connect to Google; the configured ``timeout`` is for the response."""

Client = Any
"""``gspread.HTTPClient``; not imported here, because it takes 22 MB."""


def connect(settings: Settings, log: logging.Logger) -> Client:
    """Import gspread and create its client; nothing is sent. Takes about 0.3 s and 22 MB, once."""
    before_bytes, started_at = resident_bytes(), time.monotonic()
    from gspread.http_client import HTTPClient

    class Directed(HTTPClient):
        """Client that sends every request of gspread to the configured endpoint."""

        def request(self, method: str, endpoint: str, *args: Any, **kwargs: Any) -> Any:
            return super().request(method, endpoint.replace(GOOGLE, settings.endpoint, 1), *args, **kwargs)

    client = Directed(_credentials(settings))
    client.set_timeout((CONNECT_TIMEOUT, settings.timeout))
    added_bytes = max(0, resident_bytes() - before_bytes)
    log.info("gspread imported in %.2f s, %.1f MB more", time.monotonic() - started_at, added_bytes / 1024**2)
    return client


def _credentials(settings: Settings) -> Any:
    from google.auth import default, load_credentials_from_file
    from google.oauth2.service_account import Credentials

    # Both functions have no types.
    from_info: Any = Credentials.from_service_account_info
    from_file: Any = load_credentials_from_file
    source = settings.credentials
    assert source is not None, "without credentials nothing is sent to Google"
    if source.key is not None:
        credentials: Any = from_info(source.key, scopes=[SCOPE])
    elif source.path is not None:
        credentials, _ = from_file(str(source.path), scopes=[SCOPE])
    else:
        credentials, _ = default(scopes=[SCOPE])
    # google-auth looks up a regional boundary of each service account at another host, in a thread of
    # its own; nothing else turns that off.
    credentials._is_regional_access_boundary_lookup_required = lambda: False
    return credentials


def trouble_of(error: Exception, settings: Settings) -> BookError | None:
    """Return the meaning of an exception of gspread, google-auth or requests; None for any other exception."""
    import requests
    from google.auth import exceptions as auth
    from gspread.exceptions import APIError

    if isinstance(error, BookError):
        return error
    if isinstance(error, APIError):
        return _answered(error.response, settings)
    if (isinstance(error, auth.RefreshError) and error.retryable) or isinstance(error, auth.TransportError):
        return BookError("unreachable", f"Google's token server does not respond: {type(error).__name__}")
    if isinstance(error, auth.RefreshError):
        return BookError("auth", "Google refuses the credentials: revoked, expired, or a wrong clock; set new ones")
    if isinstance(error, auth.GoogleAuthError | ValueError) and not isinstance(error, requests.RequestException):
        # Without its text, which may have a part of the key.
        return BookError("auth", f"the credentials are invalid ({type(error).__name__}); set new ones")
    if isinstance(error, requests.RequestException):
        return _unanswered(error, settings)
    return None


def _answered(response: Any, settings: Settings) -> BookError:
    """Return the meaning of an error response, which may be an HTML page."""
    status = response.status_code
    try:
        text = str(json.loads(response.text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        text = "the response is not JSON"
    retry_after = parse_retry_after({name.lower(): value for name, value in response.headers.items()})
    if status == 429:
        return BookError("limit", f"Google's quota is used up: {text}", retry_after=retry_after)
    if status == 401:
        return BookError("auth", f"Google refuses the credentials (401): {text}")
    if status == 403:
        return BookError("auth", f"Google refuses access (403): {text}; share the spreadsheet with the account")
    if status == 404:
        return BookError("missing", f"the spreadsheet {settings.spreadsheet!r} is missing or in the bin")
    if status == 400 and ("Unable to parse range" in text or "No grid with id" in text):
        return BookError("missing", f"a worksheet is missing: {text}")
    if status < 500:
        return BookError("refused", f"Google refuses the request ({status}): {text}")
    # After a gateway's error the request may still run behind the gateway.
    effect = Effect.UNKNOWN if status in (502, 504) else Effect.ANSWERED
    return BookError("overload", f"Google failed ({status}): {text}", effect=effect, retry_after=retry_after)


def _unanswered(error: Any, settings: Settings) -> BookError:
    import requests
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

    cause = getattr(error.args[0], "reason", None) if error.args else None
    never_sent = requests.exceptions.ConnectTimeout, requests.exceptions.SSLError, requests.exceptions.ProxyError
    if isinstance(error, never_sent) or isinstance(cause, NewConnectionError | ConnectTimeoutError):
        return BookError("unreachable", f"Google cannot be reached: {type(cause or error).__name__}")
    if isinstance(error, requests.exceptions.JSONDecodeError):
        return BookError("failed", "Google's response is not JSON", effect=Effect.ANSWERED)
    if isinstance(error, requests.Timeout):
        return BookError("timeout", f"no response from Google within {settings.timeout:g} s", effect=Effect.UNKNOWN)
    return BookError("unreachable", f"connection lost: {type(error).__name__}", effect=Effect.UNKNOWN)


def resident_bytes() -> int:
    """Return this process's resident bytes; 0 without /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except (OSError, ValueError, IndexError):
        return 0
