"""Addresses of the command itself: TLS without a proxy, and sockets that systemd has opened."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from handler_host.workers.remote.certificate import make_certificate

TOKEN = "the-admin-token-of-these-tests"
GET = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
# As systemd does: the descriptor is 3, and the variables have the process ID that runs the program.
ACTIVATE = """
import os, sys
opened = int(sys.argv[1])
os.dup2(opened, 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, "-m", "handler_host", "serve", *sys.argv[2:]])
"""


@contextmanager
def serving(
    directory: Path, config: str, *, opened: socket.socket | None = None, environ: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run ``handler-host serve``; give the process and its URL."""
    file = directory / "host.toml"
    file.write_text(config + "[catalog]\nroots = []\ninclude_sys_path = false\n")
    arguments = ["--config", str(file)]
    command = [sys.executable, "-m", "handler_host", "serve", *arguments, "--port", "0"]
    if opened is not None:
        command = [sys.executable, "-c", ACTIVATE, str(opened.fileno()), *arguments]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HANDLER_HOST_ADMIN_TOKEN": TOKEN, **(environ or {})},
        pass_fds=[opened.fileno()] if opened is not None else [],
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        first = process.stdout.readline()
        if not first.startswith("ready "):
            raise AssertionError(process.stderr.read())
        yield process, first.split()[1]
    finally:
        process.terminate()
        process.communicate(timeout=30)


def write_certificate(file: Path) -> str:
    """Write a new certificate with its key; return its fingerprint."""
    pem = make_certificate()
    file.write_bytes(pem)
    certificate = pem.decode().partition("-----BEGIN PRIVATE KEY-----")[0].strip()
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate)).hexdigest()


def ask(url: str) -> tuple[bytes, str]:
    """Send a request in TLS; return the response and the fingerprint of the certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as plain, context.wrap_socket(plain) as connection:
        certificate = connection.getpeercert(binary_form=True)
        connection.sendall(GET)
        return receive(connection), hashlib.sha256(certificate or b"").hexdigest()


def receive(connection: socket.socket) -> bytes:
    received = b""
    while part := connection.recv(4096):
        received += part
    return received


class TestTls:
    def test_certificate_is_replaced_on_sighup(self, tmp_path: Path) -> None:
        file = tmp_path / "host.pem"
        first = write_certificate(file)
        with serving(tmp_path, f'[server]\ntls_cert = "{file}"\n') as (process, url):
            assert url.startswith("https://127.0.0.1:")
            response, fingerprint = ask(url)
            assert response.startswith(b"HTTP/1.1 200 ")
            assert fingerprint == first
            assert process.stderr is not None
            file.write_text("no certificate")
            process.send_signal(signal.SIGHUP)
            while "stays as it is" not in (line := process.stderr.readline()):
                assert line
            assert str(file) in line
            assert ask(url)[1] == first
            second = write_certificate(file)
            process.send_signal(signal.SIGHUP)
            while "certificate re-read" not in (line := process.stderr.readline()):
                assert line
            assert "replaced" in line
            while "configuration re-read" not in process.stderr.readline():
                pass
            assert ask(url)[1] == second
            process.send_signal(signal.SIGHUP)
            while "certificate re-read" not in (line := process.stderr.readline()):
                assert line
            assert "unchanged" in line

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ('tls_cert = "missing.pem"', r"server.tls_cert = '.*missing.pem'.*No such file or directory"),
            ('tls_key = "key.pem"', r"server.tls_key is set without server.tls_cert; set both, or neither"),
        ],
    )
    def test_wrong_files(self, settings: str, message: str, tmp_path: Path) -> None:
        with pytest.raises(AssertionError) as failure, serving(tmp_path, f"[server]\n{settings}\n"):
            pass
        assert re.search(message, str(failure.value))
        assert "Traceback" not in str(failure.value)


class TestSocketActivation:
    def test_tcp(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as opened:
            # A request that came before the host was there waits for it.
            early = socket.create_connection(opened.getsockname(), timeout=20)
            early.sendall(GET)
            with serving(tmp_path, "", opened=opened) as (_, url), early:
                assert url == f"http://127.0.0.1:{opened.getsockname()[1]}"
                assert receive(early).startswith(b"HTTP/1.1 200 ")

    def test_unix(self, tmp_path: Path) -> None:
        path = tmp_path / "http.sock"
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(str(path))
            opened.listen()
            with (
                serving(tmp_path, "", opened=opened) as (_, url),
                socket.socket(socket.AF_UNIX) as connection,
            ):
                assert url == f"unix:{path}"
                connection.connect(str(path))
                connection.sendall(GET)
                assert receive(connection).startswith(b"HTTP/1.1 200 ")

    def test_open_address_needs_keys(self, tmp_path: Path) -> None:
        with (
            socket.create_server(("0.0.0.0", 0)) as opened,
            pytest.raises(AssertionError) as failure,
            serving(tmp_path, "", opened=opened),
        ):
            pass
        assert "without API keys the host serves 127.0.0.1 only" in str(failure.value)

    def test_socket_that_does_not_listen(self, tmp_path: Path) -> None:
        with (
            socket.socket() as opened,
            pytest.raises(AssertionError) as failure,
            serving(tmp_path, "", opened=opened),
        ):
            pass
        assert "descriptor 3 is not a listening socket" in str(failure.value)
