"""Cause of a provider's failure, for operators: which address, and what the system said."""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import urlsplit

MAX_CAUSES = 20
"""Exceptions that are looked at, from an error down to its first cause."""
DUMMY_HOSTS = frozenset({"litellm.ai", "docs.litellm.ai", "litellm-proxy", "cloud.google.com"})
"""Hosts that SDKs name in errors without a request of their own."""


def describe_cause(error: BaseException) -> str | None:
    """Return the provider's address and the first cause of an error; None if the error has no causes.

    Of the address only scheme, host and port: a path or a query may contain a key. Of an exception only its type and
    the system's text: its own text may repeat the request.
    """
    causes = _causes(error)
    if not causes:
        return None
    address = next((address for cause in reversed(causes) if (address := _address(cause))), None)
    names = dict.fromkeys(type(cause).__name__ for cause in causes)
    system = next((str(cause.strerror) for cause in causes if isinstance(cause, OSError) and cause.strerror), None)
    parts = [address, " from ".join(names), system, _hint(causes)]
    return ": ".join(part for part in parts if part)


def _hint(causes: list[BaseException]) -> str | None:
    if not any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return None
    return (
        "no known authority has signed its certificate for this name; if it is your own provider, set SSL_CERT_FILE in "
        "the host's environment to a PEM file with its certificate authority"
    )


def _causes(error: BaseException) -> list[BaseException]:
    causes: list[BaseException] = []
    cause = error.__cause__ or error.__context__
    while cause is not None and cause not in causes and len(causes) < MAX_CAUSES:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    return causes


def _address(error: BaseException) -> str | None:
    try:
        request: Any = getattr(error, "request", None)  # httpx raises RuntimeError for an error without a request
        url = urlsplit(str(getattr(request, "url", "") or ""))
        if not url.hostname or url.hostname in DUMMY_HOSTS:
            return None
        host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
        return f"{url.scheme}://{host}" if url.port is None else f"{url.scheme}://{host}:{url.port}"
    except (RuntimeError, ValueError):
        return None
