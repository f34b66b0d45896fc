"""The composition root: one place where everything is wired."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from aiohttp import web

from handler_host.admin.dashboard import DashboardRoutes
from handler_host.admin.events import EventRoutes
from handler_host.admin.routes import AdminRoutes
from handler_host.auth.admin_auth import AdminAuth
from handler_host.auth.audit import Audit
from handler_host.auth.consumer_auth import ConsumerAuth, Endpoint, KeyRing
from handler_host.config import Config
from handler_host.dispatch.dispatcher import Dispatcher, NativeRoutes
from handler_host.http.client_address import is_admin_connection
from handler_host.http.errors import error_middleware, handle_expect_header, with_error_format
from handler_host.http.middleware.cors import Cors
from handler_host.http.request_limits import RequestLimits
from handler_host.lifecycle.supervisor import Supervisor
from handler_host.plugin.errors import NotFound
from handler_host.protocols.anthropic.routes import REQUEST_ID, AnthropicRoutes
from handler_host.protocols.anthropic.routes import error_body as anthropic_envelope
from handler_host.protocols.chat_service import ChatService
from handler_host.protocols.gemini.routes import GeminiRoutes
from handler_host.protocols.gemini.routes import error_body as gemini_envelope
from handler_host.protocols.openai.routes import OpenAIRoutes
from handler_host.protocols.openai_responses.routes import ResponsesRoutes
from handler_host.routes.api_docs import ApiDocsRoutes
from handler_host.routes.health import HealthRoutes
from handler_host.routes.metrics import MetricsRoutes
from handler_host.telemetry.hub import Observer

Gate = Callable[[Endpoint], Endpoint]
"""Stands before an endpoint."""

if TYPE_CHECKING:
    from handler_host.http.middleware.tracing import Tracing

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
    chats = ChatService(supervisor, dispatcher)
    openai = OpenAIRoutes(chats, limits)
    responses = ResponsesRoutes(chats, limits)
    anthropic = AnthropicRoutes(chats, limits)
    gemini = GeminiRoutes(chats, limits)
    admin = AdminRoutes(supervisor, limits)
    docs = ApiDocsRoutes(supervisor)
    metrics = MetricsRoutes(supervisor)
    dashboard = DashboardRoutes(supervisor, native)
    audit = Audit(supervisor.observation.events)
    consumers = ConsumerAuth(keys, counters, cors.allows)
    operators = AdminAuth(keys, audit, counters, limits)
    # With an address of their own, what operators do is found nowhere else, and nothing else there.
    apart = config.admin.listen is not None
    operators_address = _only_at(operators=True) if apart else _unchanged
    not_operators = _only_at(operators=False) if apart else _unchanged

    tracing = _tracing(config)
    traced = tracing.traced if tracing is not None else _unchanged

    def for_consumers(endpoint: Endpoint, parameter: str | None = None) -> Endpoint:
        return not_operators(cors.crossed(traced(limits.counted(consumers.only(endpoint, parameter)))))

    def for_anthropics_clients(endpoint: Endpoint) -> Endpoint:
        return with_error_format(anthropic_envelope, for_consumers(endpoint), request_id=REQUEST_ID)

    def for_geminis_clients(endpoint: Endpoint) -> Endpoint:
        return with_error_format(gemini_envelope, for_consumers(endpoint, parameter="key"))

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
    from handler_host.http.middleware.tracing import (
        Tracing,  # with OpenTelemetry's SDK, which the host else does without
    )

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
        web.route(route.method, route.path, gate(route.handler), expect_handler=handle_expect_header, **route.kwargs)
        for route in routes
    ]
