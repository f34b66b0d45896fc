"""The errors of the host: each has one HTTP status and one stable code.

Code below the HTTP layer raises these; one middleware renders them. For any other exception the response has a general
text and the request ID, so that internal details never reach a client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from handler_host._internal.units import bound_seconds

if TYPE_CHECKING:
    from handler_host.plugin.native_response import NativeResponse  # tools import errors without msgspec


class HostError(Exception):
    """An error with a meaning for the client.

    ``message`` is one sentence that names the place, the value and the remedy. ``retry_after`` is in seconds, at most
    one day, and becomes the ``Retry-After`` header. ``param`` is the path to the invalid field (``messages[0].role``),
    ``details`` are further figures for programs, rendered as JSON. ``cause`` is for operators: what failed below, such
    as the provider's address. Log, ``handler-host why`` and dashboard show it; clients never see it.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False
    """Whether the same request can succeed later: becomes ``x-should-retry``."""

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        param: str | None = None,
        details: dict[str, object] | None = None,
        cause: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        # A provider may name any number, and a plugin passes it on: infinity has no JSON and no header.
        self.retry_after = bound_seconds(retry_after) if isinstance(retry_after, int | float) else None
        self.param = None if param is None else str(param)  # a header of multidict, a subclass of str, has no JSON
        self.details = details
        self.cause = cause

    def copy(self, *, retry_after: float | None = None) -> Self:
        """Return a new error with the same content, because an exception object should be raised only once."""
        return type(self)(
            self.message,
            retry_after=self.retry_after if retry_after is None else retry_after,
            param=self.param,
            details=self.details,
            cause=self.cause,
        )


class ConfigError(HostError):
    """The configuration is invalid; the message names file, key, value and remedy."""

    code = "invalid_config"


class InvalidInput(HostError):
    """The request does not match the input of the operation; ``param`` is the field."""

    status = 400
    code = "invalid_input"


class Unauthorized(HostError):
    """The API key is missing or invalid."""

    status = 401
    code = "invalid_key"


class Forbidden(HostError):
    """The API key is valid, but does not allow this request."""

    status = 403
    code = "forbidden"


class NotFound(HostError):
    """The route is unknown."""

    status = 404
    code = "not_found"


class MethodNotAllowed(HostError):
    """The route does not support this method."""

    status = 405
    code = "method_not_allowed"


class NotInstalled(HostError):
    """A required optional package is not installed."""

    status = 501
    code = "not_installed"


class BadRequest(HostError):
    """The request is not valid HTTP."""

    status = 400
    code = "bad_request"


class UnknownHandler(HostError):
    """The handler is unknown."""

    status = 404
    code = "unknown_handler"


class UnknownOperation(HostError):
    """The handler does not have this operation."""

    status = 404
    code = "unknown_operation"


class RequestTimeout(HostError):
    """The client did not send its body in time."""

    status = 408
    code = "request_timeout"


class ModelNotFound(HostError):
    """The model is unknown: no handler chats under its name (OpenAI's error code)."""

    status = 404
    code = "model_not_found"


class HandlerBusy(HostError):
    """An ``if_idle`` unload found dispatches in flight (admin routes only)."""

    status = 409
    code = "handler_busy"


class BodyTooLarge(HostError):
    """The request body is over ``server.max_body``."""

    status = 413
    code = "body_too_large"


class UnsupportedMediaType(HostError):
    """The body is not ``application/json``."""

    status = 415
    code = "unsupported_media_type"


class HeadersTooLarge(HostError):
    """The request line or a header is over ``server.max_header``."""

    status = 431
    code = "headers_too_large"


class QueueFull(HostError):
    """The handler's queue is full."""

    status = 429
    code = "queue_full"
    retryable = True


class RateLimited(HostError):
    """The consumer has reached its limit."""

    status = 429
    code = "rate_limited"
    retryable = True


class LimitsUnavailable(HostError):
    """The server that counts the limits of several hosts does not respond, and ``shared.on_failure`` is ``closed``."""

    status = 503
    code = "limits_unavailable"
    retryable = True


class HandlerFault(HostError):
    """The handler's own code raised an exception; the host's log has the details."""

    status = 500
    code = "handler_error"


class DispatchCycle(HandlerFault):
    """A handler dispatched to itself, or to a handler that waits for it; the message names the chain."""

    status = 508
    code = "dispatch_cycle"


class ActivationFailed(HostError):
    """The activation of the handler failed; the message has the reason."""

    status = 502
    code = "activation_failed"
    retryable = True


class PermanentActivationFailure(ActivationFailed):
    """The activation failed for a reason that only a person removes: a setting, a key, a package, the code."""

    retryable = False


class HandlerCrashed(HostError):
    """The worker ended during this dispatch."""

    status = 502
    code = "handler_crashed"
    retryable = True


class HandlerOutOfMemory(HostError):
    """The worker could not allocate memory for this dispatch; it exits after its other dispatches."""

    status = 502
    code = "handler_out_of_memory"
    retryable = True


class ResponseTooLarge(HostError):
    """The handler's response is over ``max_answer``."""

    status = 502
    code = "answer_too_large"


class HandlerUnavailable(HostError):
    """The handler is installed, but cannot run; the message has the catalog's reason."""

    status = 503
    code = "handler_unavailable"


class HandlerLoading(HostError):
    """The handler was not ready within the time that the client allowed."""

    status = 503
    code = "handler_loading"
    retryable = True


class HandlerUnloaded(HostError):
    """An operator unloaded the handler while this dispatch waited or ran."""

    status = 503
    code = "handler_unloaded"
    retryable = True


class MemoryBudget(HostError):
    """The memory budget has too little available for the handler."""

    status = 503
    code = "memory_budget"
    retryable = True


class CircuitOpen(HostError):
    """The circuit breaker is open: the handler crashed too often in a short time."""

    status = 503
    code = "circuit_open"
    retryable = True


class Draining(HostError):
    """The host is shutting down, and refuses new work."""

    status = 503
    code = "draining"
    retryable = True


class TooManyConnections(HostError):
    """The host has reached ``server.max_connections``."""

    status = 503
    code = "too_many_connections"
    retryable = True


class OutOfResources(HostError):
    """The system refused a thread, a process or a file descriptor."""

    status = 503
    code = "out_of_resources"
    retryable = True


class DeadlineExceeded(HostError):
    """A time limit was exceeded; the message names it."""

    status = 504
    code = "deadline_exceeded"
    retryable = True


class ActivationTimeout(DeadlineExceeded):
    """The handler was not ready within ``activate_timeout``."""

    code = "activation_timeout"


class UpstreamError(HostError):
    """The provider behind the handler failed (5xx, invalid response)."""

    status = 502
    code = "upstream_error"
    retryable = True

    response: NativeResponse | None = None
    """The provider's response, which clients of a native operation get as it came; None: they get this error."""

    def copy(self, *, retry_after: float | None = None) -> Self:
        """Return a new error with the same content."""
        error = super().copy(retry_after=retry_after)
        error.response = self.response
        return error


class UpstreamUnreachable(UpstreamError):
    """The provider could not be reached, or closed the connection."""

    code = "upstream_unreachable"


class UpstreamAuth(UpstreamError):
    """The provider rejected the handler's own key."""

    code = "upstream_auth"
    retryable = False


class UpstreamRateLimited(UpstreamError):
    """The provider's rate limit was reached; ``retry_after`` is the provider's."""

    status = 429
    code = "upstream_rate_limited"


class UpstreamOverloaded(UpstreamError):
    """The provider is overloaded."""

    status = 503
    code = "upstream_overloaded"


class UpstreamTimeout(UpstreamError):
    """The provider did not respond in time."""

    status = 504
    code = "upstream_timeout"


class UpstreamBadRequest(UpstreamError):
    """The provider rejected the request; the message is the provider's own."""

    status = 400
    code = "upstream_bad_request"
    retryable = False


class ContextLengthExceeded(UpstreamBadRequest):
    """The chat is too long for the model; clients shorten it and try again."""

    code = "context_length_exceeded"


class ContentRefused(UpstreamError):
    """The provider rejected the content (its filter or safety system)."""

    status = 400
    code = "content_refused"
    retryable = False


def _all_subclasses(cls: type[HostError]) -> list[type[HostError]]:
    return [cls, *(sub for child in cls.__subclasses__() for sub in _all_subclasses(child))]


BY_CODE: dict[str, type[HostError]] = {cls.code: cls for cls in reversed(_all_subclasses(HostError))}
"""The most general error of each code; an error that crosses the channel is looked up here."""
