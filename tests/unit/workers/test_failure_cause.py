"""The cause of a provider's failure: its address, and nothing that may be secret."""

from __future__ import annotations

import ssl

import httpx
import pytest

from handler_host.plugin.errors import UpstreamError, UpstreamUnreachable
from handler_host.workers.runtime.failure_cause import describe_cause


def raised(error: Exception, *causes: Exception) -> UpstreamError:
    """Return an error as a handler raises it, with its chain of causes."""
    current: Exception | None = None
    for cause in reversed(causes):
        cause.__cause__ = current
        current = cause
    error.__cause__ = current
    assert isinstance(error, UpstreamError)
    return error


def test_the_address_has_no_path_query_or_user() -> None:
    request = httpx.Request("POST", "https://user:pass@api.example:8443/v1/models?key=sk-1")
    refused = ConnectionRefusedError(111, "Connection refused")
    error = raised(UpstreamUnreachable("failed"), httpx.ConnectError("no", request=request), refused)
    assert describe_cause(error) == (
        "https://api.example:8443: ConnectError from ConnectionRefusedError: Connection refused"
    )


def test_an_error_without_causes_has_no_description() -> None:
    assert describe_cause(UpstreamError("failed")) is None


@pytest.mark.parametrize("request_url", [None, "", "https://litellm.ai", "not a url", "http://[bad"])
def test_an_unusable_address_is_left_out(request_url: str | None) -> None:
    class Broken(Exception):
        request = None if request_url is None else type("R", (), {"url": request_url})

    assert describe_cause(raised(UpstreamError("failed"), Broken())) == "Broken"


def test_httpx_errors_with_odd_causes_are_described() -> None:
    first, second = httpx.ReadTimeout("slow"), RuntimeError()
    error = raised(UpstreamError("failed"), first)
    first.__cause__, second.__cause__ = second, first
    assert describe_cause(error) == "ReadTimeout from RuntimeError"


def test_a_certificate_of_an_unknown_authority_has_a_remedy() -> None:
    error = raised(UpstreamUnreachable("failed"), ssl.SSLCertVerificationError(1, "certificate verify failed"))
    assert "SSL_CERT_FILE" in (describe_cause(error) or "")
