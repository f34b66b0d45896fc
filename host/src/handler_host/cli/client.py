"""Talks HTTP to a running host, without any proxy: JSON, and server-sent events."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from handler_host.cli.failure import REFUSED, UNREACHABLE, USAGE, Failure

DEFAULT_URL = "http://127.0.0.1:8080"
CONNECT_TIMEOUT = 10.0
"""Seconds to reach the host."""
SILENCE = 600.0
"""Seconds without a byte after which the host is given up: a drain or a cold start may take its time."""
LONGEST_REFUSAL = 1024 * 1024
EVENT_STREAM = "text/event-stream"


class Client:
    """The host at the URL of the arguments; raises :class:`Failure` for whatever goes wrong.

    ``token`` is the admin token of a host that the command itself has started.
    """

    def __init__(self, arguments: SimpleNamespace, *, token: str | None = None) -> None:
        self._token = token
        given: str = arguments.url or os.environ.get("HANDLER_HOST_URL") or DEFAULT_URL
        self.url = given.rstrip("/")
        try:
            self._socket = given.removeprefix("unix:").removeprefix("//") if given.startswith("unix:") else None
            parts = urlsplit(self.url if self._socket is None else DEFAULT_URL)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise Failure(f"{given!r} is no URL of a host; write it as {DEFAULT_URL}", USAGE)
        if parts.username is not None:
            raise Failure("keys do not belong in the URL; set HANDLER_HOST_ADMIN_TOKEN or HANDLER_HOST_API_KEY", USAGE)
        self._kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._hostname, self._port, self._prefix = parts.hostname, port, parts.path
        self._token_file: str | None = getattr(arguments, "token_file", None)

    def admin(self, method: str, *path: str, **query: object) -> Any:
        """Call an admin route; return its JSON."""
        return self._json(self._send(method, _path("admin", *path), token=self._admin_token(), query=query))

    def ask(self, *path: str, body: bytes) -> Any:
        """Post JSON to a consumer route; return the JSON of the answer."""
        return self._json(self._send("POST", _path("v1", *path), token=_consumer_key(), body=body))

    def events(self, *path: str, body: bytes) -> Events:
        """Post JSON to a consumer route; return the answer's events."""
        response = self._send("POST", _path("v1", *path), token=_consumer_key(), body=body, accept=EVENT_STREAM)
        return self._stream(response)

    def happenings(self, *, after: str | None, **query: object) -> Events:
        """Ask for the host's events, those after the one of this id; return them as they come."""
        further = {"Last-Event-ID": after} if after is not None else {}
        return self._stream(
            self._send(
                "GET",
                _path("admin", "events"),
                token=self._admin_token(),
                query=query,
                accept=EVENT_STREAM,
                further=further,
            )
        )

    def _stream(self, response: http.client.HTTPResponse) -> Events:
        if not (response.getheader("Content-Type") or "").startswith(EVENT_STREAM):
            response.close()
            raise self._stranger(f"answered with {response.getheader('Content-Type')!r} instead of a stream")
        return Events(response, self.url)

    def _send(
        self,
        method: str,
        path: str,
        *,
        token: tuple[str, str],
        query: Mapping[str, object] | None = None,
        body: bytes | None = None,
        accept: str = "application/json",
        further: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        """Send a request; return the answer if it is no refusal."""
        variable, secret = token
        if not (secret.isascii() and secret.isprintable()):
            raise Failure(f"{variable} has characters that no key has: is it the right text?", USAGE)
        headers = {"Accept": accept, "Connection": "close", **(further or {})}
        if secret:
            headers["Authorization"] = f"Bearer {secret}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        target = self._prefix + path + (f"?{urlencode(query)}" if query else "")
        connection = self._connected()
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if isinstance(error, OSError):
                raise _broken_off(self.url, error) from error
            raise self._stranger(f"did not answer with HTTP ({type(error).__name__})") from error
        if connection.sock is not None:
            # From here on the answer alone holds the connection, and closes it at its end.
            connection.sock.close()
        if not 200 <= response.status < 300:
            raise self._refusal(response, variable if not secret else "")
        return response

    def _connected(self) -> http.client.HTTPConnection:
        connection = self._kind(self._hostname, self._port, timeout=CONNECT_TIMEOUT)
        try:
            if self._socket is None:
                connection.connect()
            else:
                connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                connection.sock.settimeout(CONNECT_TIMEOUT)
                connection.sock.connect(self._socket)
        except (OSError, UnicodeError, http.client.HTTPException) as error:
            connection.close()
            raise Failure(
                f"no host at {self.url}: {_reason(error)}; start one with `handler-host serve`, "
                "or say where it is with --url or HANDLER_HOST_URL",
                UNREACHABLE,
            ) from error
        connection.sock.settimeout(SILENCE)
        return connection

    def _refusal(self, response: http.client.HTTPResponse, missing: str) -> Failure:
        """Return what the host said when it said no; ``missing`` is the variable of the key that was not sent."""
        try:
            with response:
                envelope = json.loads(response.read(LONGEST_REFUSAL))
            wait = response.getheader("Retry-After")
            hint = f"; set {missing}" if response.status == 401 and missing else ""
            return _failure(envelope, hint, f", try again in {wait} s" if wait is not None else "")
        except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException):
            return self._stranger(f"answered {response.status} {response.reason}")

    def _json(self, response: http.client.HTTPResponse) -> Any:
        try:
            with response:
                return json.loads(response.read())
        except ValueError:
            raise self._stranger("answered with something else than JSON") from None
        except (OSError, http.client.HTTPException) as error:
            raise _broken_off(self.url, error) from error

    def _stranger(self, what: str) -> Failure:
        return Failure(f"{self.url} {what}: it is no handler host, or a proxy is before it; see --url", UNREACHABLE)

    def _admin_token(self) -> tuple[str, str]:
        """Return the token, and the name of where it is from."""
        if self._token is not None:
            return "the admin token", self._token
        if self._token_file is None:
            return "HANDLER_HOST_ADMIN_TOKEN", os.environ.get("HANDLER_HOST_ADMIN_TOKEN", "").strip()
        try:
            return self._token_file, Path(self._token_file).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise Failure(f"--token-file {self._token_file}: cannot be read: {_reason(error)}", USAGE) from error


class Events:
    """The events of one answer, as they come; ``headers`` has the answer's, with names in lower case."""

    def __init__(self, response: http.client.HTTPResponse, url: str) -> None:
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.getheaders()}
        self._response = response
        self._url = url

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield the name and the data of each event; raises :class:`Failure` if the connection breaks."""
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
            raise _broken_off(self._url, error) from error
        finally:
            self.close()

    def broken_off(self) -> Failure:
        """Return the failure of a stream without its last event."""
        return _broken_off(self._url)

    def close(self) -> None:
        """Leave: the host ends what it does for this answer."""
        self._response.close()


def refused(data: str) -> Failure:
    """Return the failure that an event of a stream tells of."""
    try:
        return _failure(json.loads(data))
    except (ValueError, KeyError, TypeError):
        return Failure(f"the stream ended with an error: {data}", REFUSED)


def _failure(envelope: Any, hint: str = "", again: str = "") -> Failure:
    """Return what the host's JSON of an error says; raises ``KeyError`` or ``TypeError`` if it is none."""
    error = envelope["error"]
    message, code = error["message"], error["code"]
    number = error.get("request_id", "without a number")
    return Failure(f"{message}{hint} ({code}, request {number}{again})", REFUSED, envelope)


def _broken_off(url: str, error: Exception | None = None) -> Failure:
    return Failure(f"the answer of {url} broke off{f': {_reason(error)}' if error else ''}", UNREACHABLE)


def _path(*parts: str) -> str:
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def _consumer_key() -> tuple[str, str]:
    return "HANDLER_HOST_API_KEY", os.environ.get("HANDLER_HOST_API_KEY", "").strip()


def _reason(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "its name is not known"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
