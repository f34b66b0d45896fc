"""What a command says, and with which exit status, when the host is not there or is none."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable

import pytest

from tests.integration.cli.running import CHUNK, STREAM, Run, Stranger

Start = Callable[[Iterable[bytes]], Stranger]


def response(body: str, status: str = "200 OK", kind: str = "application/json") -> list[bytes]:
    return [f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()]


def test_no_host_names_the_url_and_the_remedy(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    for words in (["ps"], ["unload", "a", "b"], ["chat", "a", "hello"], ["dispatch", "a", "b", "--stream"]):
        result = run(words[0], "--url", url, *words[1:])
        assert (result.status, result.out) == (3, "")
        assert result.err == (
            f"handler-host: no host at {url}: Connection refused; start one with `handler-host serve`, "
            "or say where it is with --url or HANDLER_HOST_URL\n"
        )


def test_a_name_that_is_not_known(run: Run) -> None:
    result = run("ps", "--url", "http://nobody.invalid")
    assert result.status == 3
    assert "no host at http://nobody.invalid: its name is not known" in result.err


@pytest.mark.parametrize("url", ["nonsense", "ftp://x", "http://", "http://x:port", "http://[", "http://x/?a=b"])
def test_what_is_no_url_is_wrong_usage(url: str, run: Run) -> None:
    result = run("ps", "--url", url)
    assert result.status == 2
    assert f"{url!r} is no URL of a host; write it as http://127.0.0.1:8080" in result.err


def test_a_key_in_the_url_is_refused_and_not_shown(run: Run) -> None:
    result = run("ps", "--url", "http://me:very-secret@127.0.0.1")
    assert result.status == 2
    assert "HANDLER_HOST_ADMIN_TOKEN" in result.err
    assert "very-secret" not in result.err


def test_a_token_that_cannot_be_one_is_refused_and_not_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDLER_HOST_ADMIN_TOKEN", "very\nsecret")
    result = run("ps")
    assert result.status == 2
    assert "HANDLER_HOST_ADMIN_TOKEN has characters" in result.err
    assert "secret" not in result.err


@pytest.mark.parametrize(
    ("told", "what"),
    [
        (response("<html>", kind="text/html"), "answered with something else than JSON"),
        (response("<html>", "502 Bad Gateway", "text/html"), "answered 502 Bad Gateway"),
        (response("", "302 Found"), "answered 302 Found"),
        (response('{"error": "no"}', "404 Not Found"), "answered 404 Not Found"),
        ([b"SSH-2.0-OpenSSH_9.2\r\n"], "did not answer with HTTP (BadStatusLine)"),
    ],
)
def test_another_server_is_told_from_a_host(told: list[bytes], what: str, run: Run, stranger: Start) -> None:
    url = stranger(told).url
    result = run("ps", "--url", url)
    assert (result.status, result.out) == (3, "")
    assert result.err == f"handler-host: {url} {what}: it is no handler host, or a proxy is before it; see --url\n"


def test_a_host_that_ends_before_it_answers(run: Run, stranger: Start) -> None:
    url = stranger([]).url
    result = run("ps", "--url", url)
    assert result.status == 3
    assert result.err.startswith(f"handler-host: the answer of {url} broke off: ")


def test_an_answer_that_is_cut_off(run: Run, stranger: Start) -> None:
    cut = [b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"handlers": [']
    result = run("ps", "--url", stranger(cut).url)
    assert result.status == 3
    assert "broke off" in result.err


def test_a_stream_that_is_cut_off_is_no_whole_answer(run: Run, stranger: Start) -> None:
    result = run("chat", "any", "hello", "--url", stranger([(STREAM + CHUNK % "one").encode()]).url)
    assert (result.status, result.out) == (3, "one\n")
    assert "broke off" in result.err
    result = run("dispatch", "--url", stranger([f"{STREAM}data: 1\n\n".encode()]).url, "any", "count", "--stream")
    assert (result.status, result.out) == (3, "1\n")


def test_a_stream_that_is_none(run: Run, stranger: Start) -> None:
    result = run("chat", "any", "hello", "--url", stranger(response("{}")).url)
    assert result.status == 3
    assert "answered with 'application/json' instead of a stream" in result.err


@pytest.mark.parametrize("data", ["hello", "[]", "{}", '{"choices": [{}]}', '{"choices": 7}'])
def test_a_stream_of_something_else(data: str, run: Run, stranger: Start) -> None:
    result = run("chat", "any", "hello", "--url", stranger([f"{STREAM}data: {data}\n\n".encode()]).url)
    assert result.status == 1
    assert f"no part of a chat completion: {data}" in result.err


def test_comments_and_lines_of_one_event_are_read_as_the_standard_says(run: Run, stranger: Start) -> None:
    stream = f"{STREAM}: keep-alive\n\nid: 7\r\ndata:[1,\r\ndata: 2]\r\n\r\nevent: end\ndata: {{}}\n\n"
    result = run("dispatch", "--url", stranger([stream.encode()]).url, "any", "count", "--stream")
    assert (result.status, result.out) == (0, "[1,\n2]\n")


def test_a_retry_time_is_told(run: Run, stranger: Start) -> None:
    body = '{"error": {"message": "full", "code": "queue_full", "request_id": "r-1"}}'
    head = f"HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\nContent-Length: {len(body)}\r\n\r\n"
    result = run("chat", "any", "hello", "--url", stranger([(head + body).encode()]).url)
    assert result.err == "handler-host: full (queue_full, request r-1, try again in 7 s)\n"


def test_no_proxy_is_asked(host: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert run("ps").status == 0


def test_names_are_quoted(run: Run, stranger: Start) -> None:
    server = stranger(response("{}"))
    run("dispatch", "--url", f"{server.url}/below/", "a/b?c", "d#ü")
    assert server.asked[0].startswith(b"POST /below/v1/handlers/a%2Fb%3Fc/d%23%C3%BC HTTP/1.1\r\n")


def test_a_reader_that_has_seen_enough_is_no_error(host: str) -> None:
    """Given a pipe that nobody reads, a command is silent."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-m", "handler_host", "ps"], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
