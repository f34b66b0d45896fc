"""gpt_a and gpt_b call their provider by aiohttp: proxies, certificates, failed connections, closed sessions."""

from __future__ import annotations

import datetime
import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from handler_host.plugin import UpstreamError, UpstreamUnreachable
from handler_host.testing import Raw, Upstream, WorkerUnderTest, worker_under_test
from tests.integration.plugins.bodies import HI

SECRETS = {"gpt_a": {"OPENAI_API_KEY": "k"}, "gpt_b": {"ANTHROPIC_API_KEY": "k"}}
both = pytest.mark.parametrize("name", ["gpt_a", "gpt_b"])


@contextmanager
def running(name: str, base_url: str) -> Iterator[WorkerUnderTest]:
    """Run a handler whose provider is at ``base_url``, a URL without a path."""
    path = "/v1" if name == "gpt_a" else ""
    with worker_under_test(name, {"base_url": base_url + path, "retries": 0}, secrets=SECRETS[name]) as worker:
        yield worker


@both
def test_proxy_of_the_environment_is_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider's name resolves nowhere: only the proxy, which is the test's provider, can respond."""
    with Upstream().run() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "")
        with running(name, "http://provider.invalid") as worker:
            assert worker.chat("Hi").text == "Hello you"
        assert proxy.last_request.headers["Host"] == "provider.invalid"


@both
def test_provider_that_no_proxy_names_is_called_directly(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Upstream().run() as provider:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with running(name, provider.url) as worker:
            assert worker.chat("Hi").text == "Hello you"


@both
def test_redirects_are_not_followed(name: str) -> None:
    """Neither the key nor the chat reaches another server."""
    with Upstream().run() as provider, Upstream().run() as other:
        moved = Raw((b"",), status=307, headers={"Location": f"{other.url}/v1/messages"})
        provider.respond_with(moved, moved)
        with running(name, provider.url) as worker:
            assert "redirects" in worker.error_of("chat", HI).message
            with pytest.raises(UpstreamError, match="redirects"):
                list(worker.chat_chunks("Hi"))
        assert other.requests == []


@both
def test_connection_that_the_provider_closes_is_no_timeout(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_close_all, args=(server,), daemon=True).start()
        with running(name, f"http://127.0.0.1:{server.getsockname()[1]}") as worker:
            assert isinstance(worker.error_of("chat", HI), UpstreamUnreachable)


@both
def test_connection_is_kept_between_calls_and_closed_at_the_end(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with Upstream().run() as provider:
        with running(name, provider.url) as worker:
            for _ in range(3):
                assert worker.chat("Hi").text == "Hello you"
            assert len(provider.connections) == 1
            worker.unload()
        assert [record.getMessage() for record in caplog.records if "nclosed" in record.getMessage()] == []


@both
def test_only_known_certificates_are_accepted(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with https_provider(tmp_path) as (url, certificate):
        with running(name, url) as worker:
            assert isinstance(worker.error_of("chat", HI), UpstreamUnreachable)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with running(name, url) as worker:
            assert worker.error_of("chat", HI).message.endswith("the teapot's own words")


def _close_all(server: socket.socket) -> None:
    """Read the start of each request, and close its connection without a response, until the listener is closed."""
    try:
        while True:
            connection, _ = server.accept()
            with connection:
                connection.recv(1)
    except OSError:
        return


class _Teapot(BaseHTTPRequestHandler):
    """Refuses each request with an error in the form of both providers."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"error": {"type": "teapot", "message": "the teapot's own words"}}).encode()
        self.send_response(418)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Write nothing."""


@contextmanager
def https_provider(directory: Path) -> Iterator[tuple[str, Path]]:
    """Run a provider with a certificate of its own; yield its URL and the certificate's file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    own, private = directory / "certificate.pem", directory / "key.pem"
    own.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    private.write_bytes(key.private_bytes(*form))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own, private)
    with HTTPServer(("127.0.0.1", 0), _Teapot) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_address[1]}", own
        finally:
            server.shutdown()
            thread.join()
