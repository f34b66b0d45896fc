"""The composition root: one place where everything is wired."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from aiohttp import web

from host.access.audit import Audit
from host.access.auth import ConsumerGate, Endpoint, KeyRing
from host.access.operators import Operators
from host.config import Config
from host.dashboard import DashboardRoutes
from host.errors import NotFound
from host.http.admin import AdminRoutes
from host.http.api_docs import ApiDocsRoutes
from host.http.cors import Cors
from host.http.dispatch import Dispatcher, NativeRoutes
from host.http.event_routes import EventRoutes
from host.http.health import HealthRoutes
from host.http.http_errors import error_middleware, expectation, speaking
from host.http.peer import is_admin_connection
from host.http.request_limits import RequestLimits
from host.lifecycle.supervisor import Supervisor
from host.protocols.anthropic.routes import REQUEST_ID, AnthropicRoutes
from host.protocols.anthropic.routes import envelope as anthropic_envelope
from host.protocols.chat_api import ChatApi
from host.protocols.gemini.routes import GeminiRoutes
from host.protocols.gemini.routes import envelope as gemini_envelope
from host.protocols.openai.routes import OpenAIRoutes
from host.protocols.responses.routes import ResponsesRoutes
from host.telemetry.metrics import MetricsRoutes
from host.telemetry.observation import Observer

Gate = Callable[[Endpoint], Endpoint]
"""Stands before an endpoint."""

if TYPE_CHECKING:
    from host.telemetry.tracing import Tracing

SUPERVISOR = web.AppKey("SUPERVISOR", Supervisor)
"""Where an application has its supervisor."""


def create_app(config: Config | None = None, *, observer: Observer | None = None) -> web.Application:
    """Return the host as an aiohttp application, to be run on its own or mounted with ``add_subapp``.

    Serve it with ``handler_cancellation=True``: else aiohttp tells nobody that a
    client has left, and what the client has asked for goes on. ``observer`` is told
    of each step in a handler's life. Without consumer keys in ``config`` requests are
    answered only under a name of this machine, and without an admin token there
    the admin routes are closed.
    """
    config = config or Config()
    supervisor = Supervisor(config, observer=observer)
    counters = supervisor.observation.counters
    keys = KeyRing(config.auth)
    limits = RequestLimits(config.server)
    cors = Cors(config.server.cors_origins)
    dispatcher = Dispatcher(supervisor, config.server.request_timeout)
    native = NativeRoutes(supervisor, dispatcher, limits)
    chats = ChatApi(supervisor, dispatcher)
    openai = OpenAIRoutes(chats, limits)
    responses = ResponsesRoutes(chats, limits)
    anthropic = AnthropicRoutes(chats, limits)
    gemini = GeminiRoutes(chats, limits)
    admin = AdminRoutes(supervisor, limits)
    docs = ApiDocsRoutes(supervisor)
    metrics = MetricsRoutes(supervisor)
    dashboard = DashboardRoutes(supervisor, native)
    audit = Audit(supervisor.observation.events)
    consumers = ConsumerGate(keys, counters, cors.allows)
    operators = Operators(keys, audit, counters, limits)
    # With an address of their own, what operators do is found nowhere else, and nothing else there.
    apart = config.admin.listen is not None
    operators_address = _only_at(operators=True) if apart else _unchanged
    not_operators = _only_at(operators=False) if apart else _unchanged

    tracing = _tracing(config)
    traced = tracing.traced if tracing is not None else _unchanged

    def for_consumers(endpoint: Endpoint, parameter: str | None = None) -> Endpoint:
        return not_operators(cors.crossed(traced(limits.counted(consumers.only(endpoint, parameter)))))

    def for_anthropics_clients(endpoint: Endpoint) -> Endpoint:
        return speaking(anthropic_envelope, for_consumers(endpoint), request_id=REQUEST_ID)

    def for_geminis_clients(endpoint: Endpoint) -> Endpoint:
        return speaking(gemini_envelope, for_consumers(endpoint, parameter="key"))

    def for_operators(endpoint: Endpoint) -> Endpoint:
        return operators_address(operators.only(endpoint))

    app = web.Application(middlewares=[error_middleware()], client_max_size=config.server.max_body)
    app[SUPERVISOR] = supervisor
    app.add_routes(_guarded(HealthRoutes(supervisor).routes(), _unchanged))
    app.add_routes(_guarded(native.routes(), for_consumers))
    app.add_routes(anthropic.beside(_guarded(openai.routes(), for_consumers), for_anthropics_clients))
    app.add_routes(_guarded(anthropic.routes(), for_anthropics_clients))
    app.add_routes(_guarded(responses.routes(), for_consumers))
    app.add_routes(_guarded(gemini.routes(), for_geminis_clients))
    app.add_routes(_guarded(docs.routes(), for_consumers))
    app.add_routes(_guarded(docs.open_routes(), not_operators))
    for steering in (admin.routes(), EventRoutes(supervisor).routes(), dashboard.routes()):
        app.add_routes(_guarded(steering, for_operators))
    for page in (operators.routes(), dashboard.public_routes()):
        app.add_routes(_guarded(page, operators_address))
    app.add_routes(_guarded(metrics.routes(), _unchanged if config.metrics.public else for_operators))
    if config.server.cors_origins:
        app.add_routes(_guarded(cors.routes(), not_operators))
        app.on_response_prepare.append(cors.stamp)

    async def supervise(_: web.Application) -> AsyncIterator[None]:
        await supervisor.start()
        yield
        await supervisor.close()
        metrics.close()
        await admin.close()
        if tracing is not None:
            await tracing.close()

    async def end_events(_: web.Application) -> None:
        supervisor.observation.events.close()

    # A server that ends the host as a part of it waits for its answers first: these would never end.
    app.on_shutdown.append(end_events)
    app.cleanup_ctx.append(supervise)
    return app


def _tracing(config: Config) -> Tracing | None:
    if not config.tracing.enabled:
        return None
    from host.telemetry.tracing import Tracing  # with OpenTelemetry's SDK, which the host else does without

    return Tracing(config.tracing)


def _unchanged(endpoint: Endpoint) -> Endpoint:
    return endpoint


def _only_at(*, operators: bool) -> Gate:
    """Return what leaves an endpoint to the connections of the operators' own address, or to all others."""

    def only(endpoint: Endpoint) -> Endpoint:
        async def run(request: web.Request) -> web.StreamResponse:
            if is_admin_connection(request) != operators:
                raise NotFound(f"there is nothing at {request.path} of this address")
            return await endpoint(request)

        return run

    return only


def _guarded(routes: list[web.RouteDef], gate: Gate) -> list[web.RouteDef]:
    """Return the routes with the gate before each of them."""
    return [
        web.route(route.method, route.path, gate(route.handler), expect_handler=expectation, **route.kwargs)
        for route in routes
    ]
