"""Calls of the SDKs of OpenAI and Anthropic: one generator makes both, so that clients and errors have one form."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any
from urllib.request import getproxies

from handler_host.plugin.aiohttp_bodies import repair_aiohttp
from handler_host.plugin.errors import HostError, UpstreamError
from handler_host.plugin.native_operations import provider_refusal, relay_httpx
from handler_host.plugin.native_response import NativeResponse
from handler_host.plugin.provider_errors import error_from_response, from_httpx, timeout_error, unreachable_error


def aiohttp_client(sdk: Any, timeout_s: float) -> Any:
    """Return an HTTP client of an SDK on aiohttp, or on httpx where a proxy is a SOCKS proxy; it follows no redirects.

    Calls take half of the processor time that the SDK's own client takes (``make bench-upstream``). The client
    has the SDK's limits, proxies and TLS settings; the SDK's ``close`` closes it. ``sdk`` and ``timeout_s`` are
    those of :func:`sdk_errors`.
    """
    repair_aiohttp()
    is_socks = any(url.startswith("socks") for url in getproxies().values())
    client = sdk.DefaultAsyncHttpxClient if is_socks else sdk.DefaultAioHttpClient
    # Keys and chats are for the configured server: when a redirect leaves it, httpx removes only Authorization.
    return client(timeout=timeout_s, follow_redirects=False)


def _error_of_status(error: Any) -> UpstreamError:
    return error_from_response(error.status_code, error.response.headers, error.response.content)


@contextmanager
def sdk_errors(
    sdk: Any, timeout_s: float, error_of_status: Callable[[Any], HostError] = _error_of_status
) -> Iterator[None]:
    """Translate the errors of an SDK and of its transport to those of the host.

    ``sdk`` is the module ``openai`` or ``anthropic``; ``timeout_s`` is the client's timeout, for the message.
    ``error_of_status`` returns the error for the SDK's ``APIStatusError``.
    """
    try:
        yield
    except sdk.APIStatusError as error:
        raise error_of_status(error) from error
    except sdk.APITimeoutError as error:
        # The transport knows more: it may have reported a failed connection as a timeout.
        raise from_httpx(error.__cause__ or error, timeout_s) or timeout_error(timeout_s) from error
    except sdk.APIConnectionError as error:
        raise unreachable_error(error.__cause__ or error) from error
    except sdk.APIError as error:
        raise UpstreamError(f"the provider's response is invalid: {error.message}") from error
    except Exception as error:
        host_error = from_httpx(error, timeout_s)
        if host_error is None:
            raise
        raise host_error from error


def sdk_refusal(error: Any) -> UpstreamError:
    """Return the error of a native operation for an SDK's ``APIStatusError``, with the provider's response."""
    return provider_refusal(sdk_response(error))


def sdk_response(error: Any) -> NativeResponse:
    """Return the provider's response of an SDK's ``APIStatusError``."""
    headers = {name.lower(): value for name, value in error.response.headers.items()}
    return NativeResponse(error.status_code, headers, error.response.content)


async def relay_sdk(
    sdk: Any,
    client: Any,
    path: str,
    payload: bytes,
    *,
    headers: Mapping[str, str],
    query: Mapping[str, str],
    timeout_s: float,
    error_of_status: Callable[[Any], HostError] = sdk_refusal,
) -> AsyncGenerator[NativeResponse | bytes, None]:
    """Send a native request with an SDK's client, and yield the response as a native operation does.

    ``path`` is that of the provider's route; the other arguments are those of :func:`sdk_errors`.
    """
    with sdk_errors(sdk, timeout_s, error_of_status):
        stream = await client.post(
            path,
            content=payload,
            cast_to=object,
            options={"headers": dict(headers), "params": dict(query)},
            stream=True,
            stream_cls=sdk.AsyncStream[object],
        )
        async with aclosing(relay_httpx(stream.response)) as parts:
            async for part in parts:
                yield part
