"""HTTP client for a running host: JSON and server-sent events, never through a proxy."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from handler_host.cli.failure import REFUSED, UNREACHABLE, USAGE, Failure

DEFAULT_URL = "http://127.0.0.1:8080"
URL_VARIABLE = "HANDLER_HOST_URL"
ADMIN_TOKEN_VARIABLE = "HANDLER_HOST_ADMIN_TOKEN"  # noqa: S105 - the variable's name
API_KEY_VARIABLE = "HANDLER_HOST_API_KEY"
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 600.0
"""Without a byte from the host. A drain or a cold start can take minutes."""
MAX_ERROR_BYTES = 1024 * 1024
EVENT_STREAM = "text/event-stream"


class _Secret(NamedTuple):
    """The token or key of a request."""

    source: str
    """The variable or file that it comes from, for messages."""
    value: str
    """Empty: none is set."""


class Client:
    """A host at one address. All methods raise :class:`Failure` if a request does not succeed.

    ``url`` is ``http://…``, ``https://…`` or ``unix:PATH``; the default is ``HANDLER_HOST_URL``.
    ``token`` is the admin token, ``token_file`` a file with it; the default is ``HANDLER_HOST_ADMIN_TOKEN``.
    """

    def __init__(self, url: str | None = None, *, token: str | None = None, token_file: str | None = None) -> None:
        address, source = _address(url)
        self.url = address.rstrip("/")
        self._token = token
        self._token_file = token_file
        self._socket = address.removeprefix("unix:").removeprefix("//") if address.startswith("unix:") else None
        try:
            parts = urlsplit(self.url if self._socket is None else DEFAULT_URL)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise Failure(f"{source}: invalid URL {address!r}; write it as {DEFAULT_URL}", USAGE)
        if parts.username is not None:
            raise Failure(
                f"{source}: the URL contains a key; set {ADMIN_TOKEN_VARIABLE} or {API_KEY_VARIABLE} instead", USAGE
            )
        self._connection_type = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._hostname, self._port, self._prefix = parts.hostname, port, parts.path

    @classmethod
    def from_arguments(cls, arguments: SimpleNamespace) -> Client:
        """Return the client for the options ``--url`` and ``--token-file``."""
        return cls(arguments.url, token_file=getattr(arguments, "token_file", None))

    def call_admin(self, method: str, *path: str, **query: object) -> Any:
        """Send a request to an admin route; return the JSON of the response."""
        return self._json(self._send(method, _path("admin", *path), secret=self._admin_token(), query=query))

    def stream_admin_events(self, *, after: str | None, **query: object) -> EventStream:
        """Return the host's events after the event with the ID ``after``."""
        headers = {"Last-Event-ID": after} if after is not None else {}
        return self._events(
            self._send(
                "GET",
                _path("admin", "events"),
                secret=self._admin_token(),
                query=query,
                accept=EVENT_STREAM,
                headers=headers,
            )
        )

    def get(self, *path: str) -> Any:
        """Return the JSON of a consumer route below ``/v1``."""
        return self._json(self._send("GET", _path("v1", *path), secret=_api_key()))

    def post(self, *path: str, body: bytes) -> Any:
        """Post JSON to a consumer route below ``/v1``; return the JSON of the response."""
        return self._json(self._send("POST", _path("v1", *path), secret=_api_key(), body=body))

    def post_streamed(self, *path: str, body: bytes) -> EventStream:
        """Post JSON to a consumer route below ``/v1``; return the events of the response."""
        return self._events(self._send("POST", _path("v1", *path), secret=_api_key(), body=body, accept=EVENT_STREAM))

    def _send(
        self,
        method: str,
        path: str,
        *,
        secret: _Secret,
        query: Mapping[str, object] | None = None,
        body: bytes | None = None,
        accept: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        """Send a request; return the response if its status is 2xx."""
        if not (secret.value.isascii() and secret.value.isprintable()):
            raise Failure(f"{secret.source}: contains characters that a key cannot have; copy the key again", USAGE)
        all_headers = {"Accept": accept, "Connection": "close", **(headers or {})}
        if secret.value:
            all_headers["Authorization"] = f"Bearer {secret.value}"
        if body is not None:
            all_headers["Content-Type"] = "application/json"
        target = self._prefix + path + (f"?{urlencode(query)}" if query else "")
        connection = self._connect()
        try:
            connection.request(method, target, body, all_headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if isinstance(error, OSError):
                raise _truncated(self.url, error) from error
            raise self._not_a_host(f"the response is not HTTP ({type(error).__name__})") from error
        if connection.sock is not None:
            # From here on only the response holds the connection, and closes it at its end.
            connection.sock.close()
        if not 200 <= response.status < 300:
            raise self._refusal(response, "" if secret.value else secret.source)
        return response

    def _connect(self) -> http.client.HTTPConnection:
        connection = self._connection_type(self._hostname, self._port, timeout=CONNECT_TIMEOUT_S)
        try:
            if self._socket is None:
                connection.connect()
            else:
                connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                connection.sock.settimeout(CONNECT_TIMEOUT_S)
                connection.sock.connect(self._socket)
        except (OSError, UnicodeError, http.client.HTTPException) as error:
            connection.close()
            raise Failure(
                f"no host at {self.url}: {_reason(error)}; start one with `handler-host serve`, "
                f"or set its address with --url or {URL_VARIABLE}",
                UNREACHABLE,
            ) from error
        connection.sock.settimeout(READ_TIMEOUT_S)
        return connection

    def _refusal(self, response: http.client.HTTPResponse, missing: str) -> Failure:
        """Return the host's error; ``missing`` is the variable of the key that the request was sent without."""
        try:
            with response:
                envelope = json.loads(response.read(MAX_ERROR_BYTES))
            seconds = response.getheader("Retry-After")
            return _host_error(
                envelope,
                remedy=f"; set {missing}" if response.status == 401 and missing else "",
                retry=f", retry in {seconds} s" if seconds is not None else "",
            )
        except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException):
            return self._not_a_host(f"the response is {response.status} {response.reason}")

    def _json(self, response: http.client.HTTPResponse) -> Any:
        try:
            with response:
                return json.loads(response.read())
        except ValueError:
            raise self._not_a_host("the response is not JSON") from None
        except (OSError, http.client.HTTPException) as error:
            raise _truncated(self.url, error) from error

    def _events(self, response: http.client.HTTPResponse) -> EventStream:
        content_type = response.getheader("Content-Type") or ""
        if not content_type.startswith(EVENT_STREAM):
            response.close()
            symptom = f"the response is {content_type!r} instead of an event stream"
            handler = response.getheader("X-Handler")
            if handler is None:
                raise self._not_a_host(symptom)
            raise Failure(
                f"{handler}: {symptom}: its provider does not stream (request {response.getheader('X-Request-ID')}); "
                f"`handler-host dispatch {handler} chat` also reads a whole response"
            )
        return EventStream(response, self.url)

    def _not_a_host(self, symptom: str) -> Failure:
        return Failure(
            f"{self.url}: {symptom}; not a handler host, or a proxy in front of it: check --url", UNREACHABLE
        )

    def _admin_token(self) -> _Secret:
        if self._token is not None:
            return _Secret("the admin token", self._token)
        if self._token_file is None:
            return _Secret(ADMIN_TOKEN_VARIABLE, os.environ.get(ADMIN_TOKEN_VARIABLE, "").strip())
        try:
            return _Secret(self._token_file, Path(self._token_file).read_text(encoding="utf-8").strip())
        except (OSError, ValueError) as error:
            raise Failure(f"--token-file {self._token_file}: cannot read it: {_reason(error)}", USAGE) from error


class EventStream:
    """The server-sent events of one response; ``headers`` are the response's, with names in lower case."""

    def __init__(self, response: http.client.HTTPResponse, url: str) -> None:
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.getheaders()}
        self._response = response
        self._url = url

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield the name and the data of each event. Raises :class:`Failure` if the connection breaks."""
        name, data = "message", list[str]()
        try:
            for raw in self._response:
                field, _, value = raw.decode("utf-8", "replace").rstrip("\r\n").partition(":")
                if field == "event":
                    name = value.strip()
                elif field == "data":
                    data.append(value.removeprefix(" "))
                elif not field and not value and data:
                    yield name, "\n".join(data)
                    name, data = "message", []
        except (OSError, http.client.HTTPException) as error:
            raise _truncated(self._url, error) from error
        finally:
            self.close()

    def truncated(self) -> Failure:
        """Return the failure of a stream that ended without its last event."""
        return _truncated(self._url)

    def close(self) -> None:
        """Close the connection: the host cancels the work for this response."""
        self._response.close()


def stream_error(data: str) -> Failure:
    """Return the failure that an error event within a stream reports."""
    try:
        return _host_error(json.loads(data))
    except (ValueError, KeyError, TypeError):
        return Failure(f"the stream ended with an error: {data}", REFUSED)


def _host_error(envelope: Any, *, remedy: str = "", retry: str = "") -> Failure:
    """Return the failure for the host's error JSON. Raises ``KeyError`` or ``TypeError`` for other JSON."""
    error = envelope["error"]
    message, code = error["message"], error["code"]
    request_id = error.get("request_id", "without an ID")
    return Failure(f"{message}{remedy} ({code}, request {request_id}{retry})", REFUSED, envelope)


def _truncated(url: str, error: Exception | None = None) -> Failure:
    return Failure(f"{url}: the response ended early{f': {_reason(error)}' if error else ''}", UNREACHABLE)


def _address(url: str | None) -> tuple[str, str]:
    """Return the address of the host, and the option or variable that sets it."""
    if url:
        return url, "--url"
    return os.environ.get(URL_VARIABLE) or DEFAULT_URL, URL_VARIABLE


def _path(*parts: str) -> str:
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def _api_key() -> _Secret:
    return _Secret(API_KEY_VARIABLE, os.environ.get(API_KEY_VARIABLE, "").strip())


def _reason(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "unknown host name"
    if isinstance(error, TimeoutError):
        return "timeout"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
