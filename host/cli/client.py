"""Talks HTTP to a running host, without any proxy: JSON, and server-sent events."""

from __future__ import annotations

import argparse
import http.client
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from host.cli import REFUSED, UNREACHABLE, USAGE
from host.cli.failure import Failure

DEFAULT_URL = "http://127.0.0.1:8080"


class Client:
    """The host at a URL; raises :class:`Failure` for whatever goes wrong."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.url = (arguments.url or os.environ.get("HANDLER_HOST_URL") or DEFAULT_URL).rstrip("/")
        self._parts = urlsplit(self.url)
        if self._parts.scheme not in ("http", "https") or not self._parts.hostname:
            raise Failure(f"{self.url!r} is no URL of a host; write it as {DEFAULT_URL}", USAGE)
        self._token_file: str | None = arguments.token_file

    def admin(self, method: str, *path: str, **query: object) -> Any:
        """Call an admin route; return its JSON."""
        token = self._admin_token()
        return self._json(self._send(method, "/admin/" + "/".join(map(_quoted, path)), query, None, token))

    def ask(self, *path: str, body: object) -> Any:
        """Post to a consumer route; return its JSON."""
        return self._json(self._send("POST", "/v1/" + "/".join(map(_quoted, path)), {}, body, _consumer_key()))

    def events(self, *path: str, body: object) -> Iterator[tuple[str, str, Mapping[str, str]]]:
        """Post to a consumer route; yield name, data and the answer's headers for each event."""
        answer = self._send(
            "POST", "/v1/" + "/".join(map(_quoted, path)), {}, body, _consumer_key(), accept="text/event-stream"
        )
        headers = {name.lower(): value for name, value in answer.getheaders()}
        name = "message"
        for raw in answer:
            line = raw.decode("utf-8", "replace").rstrip("\r\n")
            if line.startswith("event:"):
                name = line[6:].strip()
            elif line.startswith("data:"):
                yield name, line[5:].strip(), headers
                name = "message"

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, object],
        body: object,
        token: str | None,
        accept: str = "application/json",
    ) -> http.client.HTTPResponse:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        assert self._parts.hostname is not None, "checked when the client was made"
        connection = kind(self._parts.hostname, self._parts.port, timeout=600)
        headers = {"Accept": accept}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        target = self._parts.path + path + (f"?{urlencode(query)}" if query else "")
        try:
            connection.request(method, target, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise Failure(
                f"no host at {self.url} ({error}); start one with `handler-host serve`, or name it with --url "
                "or HANDLER_HOST_URL",
                UNREACHABLE,
            ) from error
        if answer.status >= 400:
            raise Failure(self._refusal(answer), REFUSED)
        return answer

    def _refusal(self, answer: http.client.HTTPResponse) -> str:
        number = answer.getheader("X-Request-ID", "?")
        text = answer.read(64 * 1024).decode("utf-8", "replace")
        try:
            error = json.loads(text)["error"]
            message, code = error["message"], error["code"]
        except (ValueError, KeyError, TypeError):
            return f"{self.url} answered {answer.status} {answer.reason}, and not as a handler host does: is it one?"
        hint = "; set HANDLER_HOST_ADMIN_TOKEN or HANDLER_HOST_API_KEY" if answer.status == 401 else ""
        return f"{message}{hint} ({answer.status} {code}, request {number})"

    def _json(self, answer: http.client.HTTPResponse) -> Any:
        text = answer.read()
        try:
            return json.loads(text)
        except ValueError:
            raise Failure(f"{self.url} did not answer with JSON: is it a handler host?") from None

    def _admin_token(self) -> str | None:
        if self._token_file is None:
            return os.environ.get("HANDLER_HOST_ADMIN_TOKEN")
        try:
            return Path(self._token_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise Failure(f"--token-file {self._token_file}: {error.strerror}", USAGE) from error


def _consumer_key() -> str | None:
    return os.environ.get("HANDLER_HOST_API_KEY")


def _quoted(part: str) -> str:
    return quote(part, safe="")
