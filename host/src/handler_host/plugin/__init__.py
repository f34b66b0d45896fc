"""Names that plugin authors import: hooks, operations, context, errors, provider errors, retries.

A handler is a class. Its *operations* are the methods marked with :func:`operation`; a dispatch is a plain call of one
of them. Its *hooks* (pluggy, marked with :data:`hookimpl`) run when the worker starts and stops::

    from handler_host.plugin import Context, hookimpl, operation

    class Clock:
        @hookimpl
        def activate(self, context: Context) -> None:
            self.zone = context.config.get("zone", "UTC")

        @operation("now")
        async def now(self, request: dict) -> dict:
            return {"zone": self.zone}

All of this runs in the worker; the host reads metadata only. The names are imported on first use, so that the host's
own modules can import ``handler_host.plugin.errors`` without loading pluggy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handler_host._internal.suggestions import did_you_mean, nearest
    from handler_host.plugin.aiohttp_bodies import repair_aiohttp
    from handler_host.plugin.context import Context, Secret
    from handler_host.plugin.errors import (
        ActivationFailed,
        ActivationTimeout,
        BadRequest,
        BodyTooLarge,
        CircuitOpen,
        ConfigError,
        ContentRefused,
        ContextLengthExceeded,
        DeadlineExceeded,
        DispatchCycle,
        Draining,
        Forbidden,
        HandlerBusy,
        HandlerCrashed,
        HandlerFault,
        HandlerLoading,
        HandlerOutOfMemory,
        HandlerUnavailable,
        HandlerUnloaded,
        HeadersTooLarge,
        HostError,
        InvalidInput,
        MemoryBudget,
        MethodNotAllowed,
        ModelNotFound,
        NotFound,
        NotInstalled,
        OutOfResources,
        QueueFull,
        RateLimited,
        RequestTimeout,
        ResponseTooLarge,
        TooManyConnections,
        Unauthorized,
        UnknownHandler,
        UnknownOperation,
        UnsupportedMediaType,
        UpstreamAuth,
        UpstreamBadRequest,
        UpstreamError,
        UpstreamOverloaded,
        UpstreamRateLimited,
        UpstreamTimeout,
        UpstreamUnreachable,
    )
    from handler_host.plugin.hooks import hookimpl
    from handler_host.plugin.life import limit_silence, note_bytes
    from handler_host.plugin.native_operations import (
        NativeRequest,
        is_for_responses,
        is_missing_route,
        native,
        provider_refusal,
        relay_body,
        relay_httpx,
    )
    from handler_host.plugin.native_response import NativeResponse
    from handler_host.plugin.operations import CallInfo, operation
    from handler_host.plugin.provider_errors import (
        error_from_document,
        error_from_response,
        error_from_text,
        from_httpx,
        from_status,
        parse_retry_after,
        refuse_fields,
        timeout_error,
        unreachable_error,
    )
    from handler_host.plugin.provider_words import find_error
    from handler_host.plugin.retry import Retries, retry_call, retry_stream
    from handler_host.plugin.sdk_calls import aiohttp_client, relay_sdk, sdk_errors, sdk_refusal, sdk_response
    from handler_host.plugin.sse import ServerSentEvent, SseDecoder, read_documents
    from handler_host.plugin.trace import trace_headers

__all__ = [
    "ActivationFailed",
    "ActivationTimeout",
    "BadRequest",
    "BodyTooLarge",
    "CallInfo",
    "CircuitOpen",
    "ConfigError",
    "ContentRefused",
    "Context",
    "ContextLengthExceeded",
    "DeadlineExceeded",
    "DispatchCycle",
    "Draining",
    "Forbidden",
    "HandlerBusy",
    "HandlerCrashed",
    "HandlerFault",
    "HandlerLoading",
    "HandlerOutOfMemory",
    "HandlerUnavailable",
    "HandlerUnloaded",
    "HeadersTooLarge",
    "HostError",
    "InvalidInput",
    "MemoryBudget",
    "MethodNotAllowed",
    "ModelNotFound",
    "NativeRequest",
    "NativeResponse",
    "NotFound",
    "NotInstalled",
    "OutOfResources",
    "QueueFull",
    "RateLimited",
    "RequestTimeout",
    "ResponseTooLarge",
    "Retries",
    "Secret",
    "ServerSentEvent",
    "SseDecoder",
    "TooManyConnections",
    "Unauthorized",
    "UnknownHandler",
    "UnknownOperation",
    "UnsupportedMediaType",
    "UpstreamAuth",
    "UpstreamBadRequest",
    "UpstreamError",
    "UpstreamOverloaded",
    "UpstreamRateLimited",
    "UpstreamTimeout",
    "UpstreamUnreachable",
    "aiohttp_client",
    "did_you_mean",
    "error_from_document",
    "error_from_response",
    "error_from_text",
    "find_error",
    "from_httpx",
    "from_status",
    "hookimpl",
    "is_for_responses",
    "is_missing_route",
    "limit_silence",
    "native",
    "nearest",
    "note_bytes",
    "operation",
    "parse_retry_after",
    "provider_refusal",
    "read_documents",
    "refuse_fields",
    "relay_body",
    "relay_httpx",
    "relay_sdk",
    "repair_aiohttp",
    "retry_call",
    "retry_stream",
    "sdk_errors",
    "sdk_refusal",
    "sdk_response",
    "timeout_error",
    "trace_headers",
    "unreachable_error",
]

_MODULES = {
    "handler_host._internal.suggestions": ("did_you_mean", "nearest"),
    "handler_host.plugin.context": ("Context", "Secret"),
    "handler_host.plugin.hooks": ("hookimpl",),
    "handler_host.plugin.life": ("limit_silence", "note_bytes"),
    "handler_host.plugin.native_operations": (
        "NativeRequest",
        "is_for_responses",
        "is_missing_route",
        "native",
        "provider_refusal",
        "relay_body",
        "relay_httpx",
    ),
    "handler_host.plugin.native_response": ("NativeResponse",),
    "handler_host.plugin.operations": ("CallInfo", "operation"),
    "handler_host.plugin.provider_errors": (
        "error_from_document",
        "error_from_response",
        "error_from_text",
        "from_httpx",
        "from_status",
        "parse_retry_after",
        "refuse_fields",
        "timeout_error",
        "unreachable_error",
    ),
    "handler_host.plugin.provider_words": ("find_error",),
    "handler_host.plugin.retry": ("Retries", "retry_call", "retry_stream"),
    "handler_host.plugin.aiohttp_bodies": ("repair_aiohttp",),
    "handler_host.plugin.sdk_calls": ("aiohttp_client", "relay_sdk", "sdk_errors", "sdk_refusal", "sdk_response"),
    "handler_host.plugin.sse": ("ServerSentEvent", "SseDecoder", "read_documents"),
    "handler_host.plugin.trace": ("trace_headers",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import the module that defines ``name``."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF.get(name, "handler_host.plugin.errors")), name)
