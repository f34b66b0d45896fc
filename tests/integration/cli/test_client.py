"""Messages and exit statuses when no host answers, or another server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from tests.integration.cli.harness import CHAT_CHUNK, STREAM_HEAD, Run, StartServer


def http(body: str, status: str = "200 OK", kind: str = "application/json") -> list[bytes]:
    return [f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()]


def unused_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


class TestAddress:
    @pytest.mark.parametrize(
        "words", [["ps"], ["unload", "a", "b"], ["chat", "a", "hello"], ["dispatch", "a", "b", "--stream"]]
    )
    def test_no_host(self, words: list[str], run: Run) -> None:
        url = unused_url()
        result = run(words[0], "--url", url, *words[1:])
        assert (result.status, result.out) == (3, "")
        assert result.err == (
            f"handler-host: no host at {url}: Connection refused; start one with `handler-host serve`, "
            "or set its address with --url or HANDLER_HOST_URL\n"
        )

    def test_unknown_name(self, run: Run) -> None:
        result = run("ps", "--url", "http://nobody.invalid")
        assert result.status == 3
        assert "no host at http://nobody.invalid: unknown host name" in result.err

    @pytest.mark.parametrize("url", ["nonsense", "ftp://x", "http://", "http://x:port", "http://[", "http://x/?a=b"])
    def test_invalid_url(self, url: str, run: Run) -> None:
        result = run("ps", "--url", url)
        assert result.status == 2
        assert f"--url: invalid URL {url!r}; write it as http://127.0.0.1:8080" in result.err

    def test_invalid_url_in_environment(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HANDLER_HOST_URL", "nonsense")
        assert "HANDLER_HOST_URL: invalid URL 'nonsense'" in run("ps").err

    def test_key_in_url_is_not_shown(self, run: Run) -> None:
        result = run("ps", "--url", "http://me:very-secret@127.0.0.1")
        assert result.status == 2
        assert "HANDLER_HOST_ADMIN_TOKEN" in result.err
        assert "very-secret" not in result.err

    def test_invalid_token_is_not_shown(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HANDLER_HOST_ADMIN_TOKEN", "very\nsecret")
        result = run("ps")
        assert result.status == 2
        assert "HANDLER_HOST_ADMIN_TOKEN: contains characters" in result.err
        assert "secret" not in result.err

    def test_proxy_is_ignored(self, host: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        assert run("ps").status == 0

    def test_names_are_quoted(self, run: Run, start_server: StartServer) -> None:
        server = start_server(http("{}"))
        run("dispatch", "--url", f"{server.url}/below/", "a/b?c", "d#ü")
        assert server.requests[0].startswith(b"POST /below/v1/handlers/a%2Fb%3Fc/d%23%C3%BC HTTP/1.1\r\n")


class TestOtherServer:
    @pytest.mark.parametrize(
        ("response", "symptom"),
        [
            (http("<html>", kind="text/html"), "the response is not JSON"),
            (http("<html>", "502 Bad Gateway", "text/html"), "the response is 502 Bad Gateway"),
            (http("", "302 Found"), "the response is 302 Found"),
            (http('{"error": "no"}', "404 Not Found"), "the response is 404 Not Found"),
            ([b"SSH-2.0-OpenSSH_9.2\r\n"], "the response is not HTTP (BadStatusLine)"),
        ],
        ids=["html", "proxy", "redirect", "json", "ssh"],
    )
    def test_is_reported(self, response: list[bytes], symptom: str, run: Run, start_server: StartServer) -> None:
        url = start_server(response).url
        result = run("ps", "--url", url)
        assert (result.status, result.out) == (3, "")
        assert result.err == (
            f"handler-host: {url}: {symptom}; not a handler host, or a proxy in front of it: check --url\n"
        )

    def test_no_stream(self, run: Run, start_server: StartServer) -> None:
        result = run("chat", "any", "hello", "--url", start_server(http("{}")).url)
        assert result.status == 3
        assert "the response is 'application/json' instead of an event stream" in result.err

    def test_provider_that_does_not_stream_is_named_by_its_handler(self, run: Run, start_server: StartServer) -> None:
        """The host passes the response of the provider on, whatever its type."""
        kind = "application/json\r\nX-Request-ID: r-1\r\nX-Handler: gpt_a"
        result = run("chat", "fast", "hello", "--url", start_server(http("{}", kind=kind)).url)
        assert (result.status, result.out) == (1, "")
        assert result.err == (
            "handler-host: gpt_a: the response is 'application/json' instead of an event stream: its provider does not "
            "stream (request r-1); `handler-host dispatch gpt_a chat` also reads a whole response\n"
        )

    @pytest.mark.parametrize("data", ["hello", "[]", "{}", '{"choices": [{}]}', '{"choices": 7}'])
    def test_other_stream(self, data: str, run: Run, start_server: StartServer) -> None:
        result = run("chat", "any", "hello", "--url", start_server([f"{STREAM_HEAD}data: {data}\n\n".encode()]).url)
        assert result.status == 1
        assert f"not a chunk of a chat completion: {data}" in result.err


class TestTruncatedResponse:
    def test_before_headers(self, run: Run, start_server: StartServer) -> None:
        url = start_server([]).url
        result = run("ps", "--url", url)
        assert result.status == 3
        assert result.err.startswith(f"handler-host: {url}: the response ended early: ")

    def test_within_json(self, run: Run, start_server: StartServer) -> None:
        cut = [b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"handlers": [']
        result = run("ps", "--url", start_server(cut).url)
        assert result.status == 3
        assert "ended early" in result.err

    def test_within_chat(self, run: Run, start_server: StartServer) -> None:
        url = start_server([(STREAM_HEAD + CHAT_CHUNK % "one").encode()]).url
        result = run("chat", "any", "hello", "--url", url)
        assert (result.status, result.out) == (3, "one\n")
        assert "ended early" in result.err

    def test_within_dispatch(self, run: Run, start_server: StartServer) -> None:
        url = start_server([f"{STREAM_HEAD}data: 1\n\n".encode()]).url
        result = run("dispatch", "--url", url, "any", "count", "--stream")
        assert (result.status, result.out) == (3, "1\n")


class TestResponse:
    def test_events_follow_the_standard(self, run: Run, start_server: StartServer) -> None:
        """Given comments, event IDs and data of several lines, the data is printed."""
        stream = f"{STREAM_HEAD}: keep-alive\n\nid: 7\r\ndata:[1,\r\ndata: 2]\r\n\r\nevent: end\ndata: {{}}\n\n"
        url = start_server([stream.encode()]).url
        result = run("dispatch", "--url", url, "any", "count", "--stream")
        assert (result.status, result.out) == (0, "[1,\n2]\n")

    def test_retry_time_is_shown(self, run: Run, start_server: StartServer) -> None:
        body = '{"error": {"message": "full", "code": "queue_full", "request_id": "r-1"}}'
        head = f"HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\nContent-Length: {len(body)}\r\n\r\n"
        result = run("chat", "any", "hello", "--url", start_server([(head + body).encode()]).url)
        assert result.err == "handler-host: full (queue_full, request r-1, retry in 7 s)\n"

    def test_closed_pipe_is_no_error(self, host: str) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        process = subprocess.run([sys.executable, "-m", "handler_host", "ps"], stdout=writing, stderr=subprocess.PIPE)
        os.close(writing)
        assert (process.returncode, process.stderr) == (0, b"")
