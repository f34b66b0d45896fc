"""Dispatcher: runs an operation of a handler for clients, operators and other handlers."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

import msgspec

from handler_host.dispatch.attempt import Attempt
from handler_host.dispatch.directory import HandlerDirectory
from handler_host.dispatch.fallback import (
    Fallbacks,
    request_for_fallback,
    should_fall_back,
    should_try_next,
    with_fallback_errors,
)
from handler_host.dispatch.model_names import ModelNames
from handler_host.dispatch.request import Caller, Consumer, Request
from handler_host.lifecycle.supervisor import Supervisor
from handler_host.plugin.errors import (
    DispatchCycle,
    HandlerCrashed,
    HostError,
    InvalidInput,
    RateLimited,
    UnknownHandler,
)
from handler_host.telemetry.failures import describe_failure
from handler_host.telemetry.usage import billed

if TYPE_CHECKING:
    from handler_host.channel.call import Call
    from handler_host.dispatch.presets import Presets

log = logging.getLogger(__name__)

Outcome = TypeVar("Outcome")
RunOnce = Callable[[Request], Awaitable[Outcome]]
"""Runs a request on the handler that it names, without fallback or retry."""


class Dispatcher:
    """Runs requests: authorization, limits, admission, crash retry, fallback and metrics.

    No operation runs twice, unless its manifest marks it ``retry_on_crash``: then once more, if its worker ended
    before anything of the response was there. ``timeout_s`` is ``server.request_timeout``.
    """

    def __init__(self, supervisor: Supervisor, timeout_s: float) -> None:
        self._supervisor = supervisor
        self._timeout_s = timeout_s
        self._counters = supervisor.telemetry.counters
        self._usage = supervisor.telemetry.usage
        self._fallbacks = Fallbacks(lambda: supervisor.config)
        self.directory = HandlerDirectory(supervisor)
        self.models = ModelNames(lambda: supervisor.config, supervisor.has_handler)

    @functools.cached_property
    def presets(self) -> Presets:
        """The presets of all handlers."""
        from handler_host.dispatch.presets import Presets  # an idle host does not need it

        return Presets(lambda: self._supervisor.config)

    def new_deadline(self) -> float:
        """Return the deadline of a request that starts now, on the clock of ``time.monotonic``."""
        return time.monotonic() + self._timeout_s

    def unsupported_of(self, find_handler: Callable[[], str]) -> str:
        """Return how a handler's requests treat unsupported fields; the handler is found only if it matters."""
        config = self._supervisor.config
        if any("unsupported" in keys for keys in config.handlers.values()):
            return config.policy(find_handler()).unsupported
        return config.defaults.unsupported

    def run(self, request: Request) -> Awaitable[bytes]:
        """Return the whole response as JSON; raises the :class:`HostError` of a refusal or failure."""
        return self._with_fallback(self._run_once, request)

    def run_each(self, run_once: RunOnce[Outcome], request: Request) -> Awaitable[Outcome]:
        """Return the result of ``run_once`` for the requested handler, or for its first fallback that does not fail.

        ``run_once`` runs a request without fallback, and raises no :class:`HostError` after the first byte.
        """
        return self._with_fallback(run_once, request)

    def speaks(self, handler: str, operation: str) -> bool:
        """Return whether the handler is known to have a native operation, and may run it (``native``).

        It is known from the manifest, or from the first activation.
        """
        try:
            names = self._supervisor.operation_names(handler)
        except UnknownHandler:
            return False
        return names is not None and operation in names and self._supervisor.config.policy(handler).native

    def fallbacks(self, handler: str) -> list[str]:
        """Return the handlers to try if this one fails."""
        return self._fallbacks.of(handler)

    def allows_provider_state(self, handler: str) -> bool:
        """Return whether requests may refer to state at the handler's provider (``provider_state``)."""
        return self._supervisor.config.policy(handler).provider_state

    def count_tokens(self, caller: Caller, handler: str, model: str | None, tokens: Mapping[str, int]) -> None:
        """Count the tokens that a provider has billed for a response of ``model``, by kind, and note their sums."""
        if caller.timings is not None:
            caller.timings.note_tokens(tokens.get("input", 0), tokens.get("output", 0))
        tokens = {kind: max(0, count) for kind, count in tokens.items()}  # some servers report -1 for an unknown count
        consumer = caller.consumer
        name = "" if consumer is None else consumer.name
        if consumer is not None:
            consumer.count_tokens(billed(tokens))
        self._usage.add(name, handler, model or "", tokens)

    def stream(self, request: Request) -> ResponseStream:
        """Return the response as a stream of chunks, which is an async context manager."""
        return ResponseStream(functools.partial(self._with_fallback, self._open_once, request))

    def set_keep_alive(self, handler: str, consumer: Consumer | None, seconds: float | None) -> None:
        """Set the idle time of a handler, if there is one that the consumer may use."""
        if self._supervisor.has_handler(handler) and (consumer is None or consumer.allows(handler)):
            self._supervisor.set_keep_alive(handler, seconds)

    async def load(self, handler: str) -> None:
        """Activate a handler without a request; raises the :class:`HostError` of a failure."""
        await self._supervisor.load(handler)

    async def _run_once(self, request: Request) -> bytes:
        try:
            with await self._attempt(request) as attempt:
                call = await attempt.start_call(streamed=False)
                return await call.read_response()
        except InvalidInput as error:
            raise self.presets.with_client_path(error, request) from None

    async def _open_once(self, request: Request) -> OpenStream:
        attempt = await self._attempt(request)
        try:
            call = await attempt.start_call(streamed=True)
            return OpenStream(attempt, call, await attempt.read_first_chunks())
        except InvalidInput as error:
            attempt.close(error)
            raise self.presets.with_client_path(error, request) from None
        except BaseException as error:
            attempt.close(error)
            raise

    async def _attempt(self, request: Request) -> Attempt:
        """Authorize a request, acquire its consumer's slot and prepare its lease; raises the error of a refusal.

        An attempt that is refused here is not counted as a dispatch.
        """
        consumer = request.caller.consumer
        if consumer is not None and not consumer.allows(request.handler):
            self._counters.refused[consumer.name, "handler"] += 1
            raise self.directory.unknown_handler(request.handler, consumer)
        patience_s = max(0.0, request.deadline - time.monotonic())
        try:
            leasing = self._supervisor.lease(
                request.handler,
                request.operation,
                patience_s,
                admitted=request.in_progress,
                affinity=request.affinity,
            )
        except UnknownHandler:
            if request.chain:
                # Without the names of others: the calling handler may pass the error on to a client.
                raise UnknownHandler(f"unknown handler {request.handler!r}", param="handler") from None
            raise self.directory.unknown_handler(request.handler, consumer) from None
        request = self.presets.add_to(request)
        if request.caller.timings is not None:
            request.caller.timings.start_attempt(request.handler)
        release_slot = None if consumer is None else await self._acquire_slot(consumer, request)
        return Attempt(request, leasing, self._counters, release_slot)

    async def _acquire_slot(self, consumer: Consumer, request: Request) -> Callable[[], None]:
        """Acquire a slot of the request's consumer; return the function that releases it."""
        try:
            return await consumer.acquire()
        except BaseException as error:
            if isinstance(error, RateLimited):
                self._counters.refused[consumer.name, "concurrency"] += 1
            if request.caller.timings is not None:
                failure = describe_failure(error, request.handler) if isinstance(error, HostError) else None
                request.caller.timings.end_attempt(None, failure)
            raise

    async def _with_fallback(self, run_once: RunOnce[Outcome], request: Request) -> Outcome:
        """Run a request on its handler, or on the first of the handler's fallbacks that does not fail."""
        if request.handler in request.chain:
            raise _cycle(request)
        try:
            return await self._with_crash_retry(run_once, request)
        except HostError as error:
            fallbacks = self._fallbacks_for(request) if should_fall_back(error) else []
            if not fallbacks:
                raise
            # A copy: the traceback of the error has this frame, and each would keep the other alive.
            first_error = error.copy()
        return await self._try_fallbacks(run_once, request, fallbacks, first_error)

    def _fallbacks_for(self, request: Request) -> list[str]:
        if not request.fallback:
            return []
        consumer = request.caller.consumer
        return [
            name
            for name in self._fallbacks.of(request.handler)
            if name not in request.chain and (consumer is None or consumer.allows(name))
        ]

    async def _try_fallbacks(
        self, run_once: RunOnce[Outcome], request: Request, fallbacks: list[str], first_error: HostError
    ) -> Outcome:
        caller = request.caller
        body = request_for_fallback(request.operation, request.body)
        failures: dict[str, HostError] = {}
        last_error = first_error
        for fallback in fallbacks:
            if time.monotonic() >= request.deadline:
                break
            fields = {
                "handler": request.handler,
                "error": last_error.code,
                "fallback": fallback,
                "request_id": caller.request_id,
            }
            log.warning("fallback", extra={"fields": fields})
            try:
                return await self._with_crash_retry(
                    run_once, msgspec.structs.replace(request, handler=fallback, body=body)
                )
            except HostError as error:
                failures[fallback] = last_error = error.copy()
                if not should_try_next(error):
                    break
        # The error is that of the requested handler; the message names the others.
        if caller.timings is not None:
            caller.timings.attribute_to(request.handler)
        raise with_fallback_errors(first_error, failures) if failures else first_error.copy()

    async def _with_crash_retry(self, run_once: RunOnce[Outcome], request: Request) -> Outcome:
        try:
            return await run_once(request)
        except HandlerCrashed:
            if not (request.retry_on_crash and self._supervisor.is_retryable(request.handler, request.operation)):
                raise
        return await run_once(request)


class OpenStream(NamedTuple):
    """Stream whose first chunks have arrived; ``attempt`` must be closed."""

    attempt: Attempt
    call: Call
    chunks: list[bytes]


class ResponseStream:
    """Streamed response: enter it to run the request up to its first chunks.

    What fails before the first chunk is raised on entry, so it can still get a status of its own. Leaving it
    cancels the call, unless that has ended.
    """

    __slots__ = ("_attempt", "_open", "chunks", "read_chunks")

    chunks: list[bytes]
    """First chunks, each one JSON; none if the stream is empty."""
    read_chunks: Callable[[], Awaitable[list[bytes]]]
    """Waits for the next chunks and returns all that have arrived; none at the end."""

    def __init__(self, open_stream: Callable[[], Awaitable[OpenStream]]) -> None:
        self._open = open_stream
        self._attempt: Attempt | None = None

    async def __aenter__(self) -> Self:
        self._attempt, call, self.chunks = await self._open()
        self.read_chunks = call.read_chunks
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._attempt is not None, "left before it was entered"
        self._attempt.close(error)


def _cycle(request: Request) -> DispatchCycle:
    waiting = " → ".join((*request.chain, request.handler))
    return DispatchCycle(f"{request.chain[-1]} must not dispatch to {request.handler}, which waits for it: {waiting}")
