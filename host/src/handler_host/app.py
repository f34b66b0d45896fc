"""Composition root: the one place that wires all parts of the host."""

from __future__ import annotations

import asyncio
import functools
import logging
import secrets
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from handler_host.admin.dashboard import DashboardRoutes
from handler_host.admin.events import EventRoutes
from handler_host.admin.failures import FailureRoutes
from handler_host.admin.routes import AdminRoutes
from handler_host.admin.usage import UsageRoutes
from handler_host.auth.admin_auth import AdminAuth
from handler_host.auth.audit_log import AuditLog
from handler_host.auth.consumer_auth import ConsumerAuth
from handler_host.auth.failed_login_throttle import FailedLoginThrottle
from handler_host.auth.key_ring import KeyRing, KeySource
from handler_host.auth.usage_file import UsageFile, usage_path
from handler_host.config import Config
from handler_host.dispatch.config_flaws import find_config_flaws
from handler_host.dispatch.dispatcher import Dispatcher
from handler_host.http.access_log import ACCESS_LOG, AccessLog
from handler_host.http.body import BodyReader
from handler_host.http.client_address import TRUSTED_PROXIES, TrustedProxies
from handler_host.http.errors import error_middleware
from handler_host.http.middleware.cors import CorsMiddleware
from handler_host.http.middleware.error_format import ErrorFormat
from handler_host.http.middleware.in_flight_limit import InFlightLimit
from handler_host.http.middleware.listener_filter import ListenerFilter
from handler_host.http.routing import Middleware, with_middleware
from handler_host.lifecycle.supervisor import Supervisor
from handler_host.protocols.anthropic import ANTHROPIC
from handler_host.protocols.gemini import GEMINI
from handler_host.protocols.ollama import OLLAMA
from handler_host.protocols.openai import OPENAI
from handler_host.protocols.openai_responses import OPENAI_RESPONSES
from handler_host.protocols.protocol import ClientProtocol, protocol_routes
from handler_host.routes.api_docs import ApiDocsRoutes
from handler_host.routes.health import HealthRoutes
from handler_host.routes.metrics import MetricsRoutes
from handler_host.routes.native import NativeRoutes
from handler_host.telemetry.hub import Observer, TelemetryHub

if TYPE_CHECKING:
    from handler_host.auth.shared_services import SharedServices
    from handler_host.channel.channel import Channel, HandlerCallRunner
    from handler_host.http.middleware.tracing import TracingMiddleware
    from handler_host.protocols.chat_service import ChatService

log = logging.getLogger(__name__)

SUPERVISOR = web.AppKey("SUPERVISOR", Supervisor)
"""Key of the supervisor in an application."""
PROTOCOLS = (OPENAI, ANTHROPIC, OPENAI_RESPONSES, GEMINI, OLLAMA)


def create_app(
    config: Config | None = None,
    *,
    observer: Observer | None = None,
    environ: Mapping[str, str] | None = None,
    session_key: bytes | None = None,
) -> web.Application:
    """Return the host as an aiohttp application, to be run on its own or mounted with ``add_subapp``.

    Serve it with ``handler_cancellation=True``: otherwise aiohttp does not report that a client has gone, and its
    dispatch runs on. ``observer`` is called for each step in a handler's life. ``environ`` has the secrets of handlers;
    by default it is the environment of the process. ``session_key`` signs the cookies of the dashboard; hosts with the
    same one accept each other's (``handler_host.auth.sessions``), and by default this host has one of its own. Without
    consumer keys in ``config`` the host serves only names of this machine; without an admin token the admin routes are
    closed.
    """
    config = config or Config()
    supervisor = Supervisor(config, environ=environ, observer=observer, check_config=find_config_flaws)
    dispatcher = Dispatcher(supervisor, config.server.request_timeout)
    counters, events = supervisor.telemetry.counters, supervisor.telemetry.events
    bodies = BodyReader(config.server, lambda: supervisor.budget.ledger.limit)
    shared = _shared(config, supervisor.telemetry)
    keys = KeyRing(config.auth, config.server.instances, None if shared is None else shared.limits)
    usage = supervisor.telemetry.usage
    usage_file = UsageFile(usage_path(config.memory), usage, keys.consumers)
    key_source = KeySource(header for protocol in PROTOCOLS for header in protocol.key_headers)

    # Middleware; None: the configuration does not ask for it.
    not_admin_listener = ListenerFilter(admin=False) if config.admin.listen is not None else None
    admin_listener = ListenerFilter(admin=True) if config.admin.listen is not None else None
    cors = CorsMiddleware(config.server.cors_origins)
    tracing = _tracing(config)
    in_flight_limit = InFlightLimit(config.server.max_connections)
    consumer_auth = ConsumerAuth(
        keys,
        key_source,
        counters,
        cors.allows,
        _throttle("consumer", config, shared),
        None if shared is None else shared.limits,
    )
    audit_log = AuditLog(events)
    admin_auth = AdminAuth(
        keys,
        key_source,
        audit_log,
        counters,
        bodies,
        session_key or secrets.token_bytes(32),
        _throttle("operator", config, shared),
    )

    consumers: list[Middleware | None] = [
        not_admin_listener,
        cors if config.server.cors_origins else None,
        tracing,
        in_flight_limit,
    ]
    operators: list[Middleware | None] = [admin_listener, admin_auth, audit_log]

    def protocol_middleware(protocol: ClientProtocol) -> list[Middleware | None]:
        error_format = ErrorFormat(protocol.name, protocol.error_body, protocol.request_id_header)
        return [error_format, *consumers, consumer_auth.with_key_parameter(protocol.key_parameter)]

    chats = functools.cache(functools.partial(_make_chat_service, dispatcher))
    native = NativeRoutes(dispatcher, bodies)
    admin = AdminRoutes(supervisor, bodies)
    dashboard = DashboardRoutes(supervisor, native)
    api_docs = ApiDocsRoutes(supervisor, dispatcher.directory)
    metrics = MetricsRoutes(supervisor)

    access_log = AccessLog(supervisor.telemetry.failures, lambda: supervisor.config.log)
    app = web.Application(middlewares=[error_middleware(access_log)], client_max_size=config.server.max_body)
    app[SUPERVISOR], app[ACCESS_LOG] = supervisor, access_log
    if config.server.trusted_proxies:
        app[TRUSTED_PROXIES] = TrustedProxies(config.server.trusted_proxies)
    app.add_routes(with_middleware(HealthRoutes(supervisor).routes()))
    app.add_routes(with_middleware(native.routes(), [ErrorFormat("native"), *consumers, consumer_auth]))
    app.add_routes(protocol_routes(PROTOCOLS, chats, bodies, protocol_middleware))
    app.add_routes(with_middleware(api_docs.routes(), [*consumers, consumer_auth]))
    app.add_routes(with_middleware(api_docs.public_routes(), [not_admin_listener]))
    app.add_routes(with_middleware(admin.routes(), operators))
    app.add_routes(with_middleware(EventRoutes(supervisor).routes(), operators))
    app.add_routes(with_middleware(FailureRoutes(supervisor.telemetry.failures).routes(), operators))
    app.add_routes(
        with_middleware(
            UsageRoutes(usage, keys.consumers, None if shared is None else shared.store).routes(), operators
        )
    )
    app.add_routes(with_middleware(dashboard.routes(), operators))
    app.add_routes(with_middleware(admin_auth.routes(), [admin_listener]))
    app.add_routes(with_middleware(dashboard.public_routes(), [admin_listener]))
    app.add_routes(with_middleware(metrics.routes(), [] if config.metrics.public else operators))
    if config.server.cors_origins:
        app.add_routes(with_middleware(cors.routes(), [not_admin_listener]))
        app.on_response_prepare.append(cors.write_headers)

    async def close_connections(_: web.Request, response: web.StreamResponse) -> None:
        if supervisor.draining or supervisor.stopping_soon:
            # A client must not send its next request to a host that is about to end.
            response.force_close()
            response.headers[hdrs.CONNECTION] = "close"

    app.on_response_prepare.append(close_connections)

    async def run(_: web.Application) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:  # also for a start that fails
            if tracing is not None:
                stack.push_async_callback(tracing.close)
            stack.push_async_callback(admin.close)
            stack.callback(metrics.close)
            if shared is not None:
                await shared.start()
                stack.push_async_callback(shared.close)
            await usage_file.start()
            stack.push_async_callback(usage_file.close)
            supervisor.telemetry.log_tail.attach()
            stack.callback(supervisor.telemetry.log_tail.detach)
            stack.push_async_callback(supervisor.close)
            await supervisor.start(functools.partial(_make_call_runner, dispatcher))
            if config.auth.consumers_file is not None or config.auth.consumers is not None:
                await _warn_of_unknown_handlers(config, [status.name for status in supervisor.statuses()])
            yield

    async def end_event_streams(_: web.Application) -> None:
        events.close()

    # aiohttp waits for all responses before it cleans up, and event streams do not end by themselves.
    app.on_shutdown.append(end_event_streams)
    app.cleanup_ctx.append(run)
    return app


def _make_chat_service(dispatcher: Dispatcher) -> ChatService:
    from handler_host.protocols.chat_service import ChatService  # an idle host does not need it

    return ChatService(dispatcher)


def _shared(config: Config, telemetry: TelemetryHub) -> SharedServices | None:
    if config.shared.url is None:
        return None
    from handler_host.auth.shared_services import SharedServices  # imports redis-py

    return SharedServices(config, telemetry)


def _throttle(realm: str, config: Config, shared: SharedServices | None) -> FailedLoginThrottle:
    return FailedLoginThrottle(config.server.instances) if shared is None else shared.limits.throttle(realm)


def _tracing(config: Config) -> TracingMiddleware | None:
    if not config.tracing.enabled:
        return None
    from handler_host.http.middleware.tracing import TracingMiddleware  # imports OpenTelemetry's SDK

    return TracingMiddleware(config.tracing)


async def _warn_of_unknown_handlers(config: Config, handlers: Collection[str]) -> None:
    from handler_host.auth.access_flaws import find_unknown_handlers  # only hosts with named consumers need it

    for flaw in await asyncio.to_thread(lambda: list(find_unknown_handlers(config.auth, handlers))):
        log.warning(flaw)


def _make_call_runner(dispatcher: Dispatcher, handler: str, channel: Channel) -> HandlerCallRunner:
    from handler_host.dispatch.handler_calls import HandlerCalls  # few hosts have a handler that dispatches

    return HandlerCalls(dispatcher, handler, channel)
