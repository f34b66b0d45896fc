"""The composition root: one place where everything is wired."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from aiohttp import web

from host.admin import AdminRoutes
from host.audit import Audit
from host.auth import Endpoint, KeyRing, for_consumers
from host.chat_api import ChatApi
from host.config import Config
from host.dashboard import DashboardRoutes
from host.dispatch import Dispatcher, NativeRoutes
from host.event_routes import EventRoutes
from host.health import HealthRoutes
from host.http_errors import error_middleware, expectation
from host.metrics import MetricsRoutes
from host.observation import Observer
from host.openai_api import OpenAIRoutes
from host.operators import Operators
from host.request_limits import RequestLimits
from host.supervisor import Supervisor

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
    keys = KeyRing(config.auth)
    limits = RequestLimits(config.server)
    dispatcher = Dispatcher(supervisor, config.server.request_timeout)
    native = NativeRoutes(supervisor, dispatcher, limits)
    openai = OpenAIRoutes(ChatApi(supervisor, dispatcher), limits)
    admin = AdminRoutes(supervisor, limits)
    metrics = MetricsRoutes(supervisor)
    dashboard = DashboardRoutes(supervisor, native)
    audit = Audit(supervisor.observation.events)
    operators = Operators(keys, audit, supervisor.observation.counters, limits)

    app = web.Application(middlewares=[error_middleware()], client_max_size=config.server.max_body)
    app[SUPERVISOR] = supervisor

    for consumers in (native.routes(), openai.routes()):
        app.add_routes(_guarded(consumers, lambda endpoint: limits.counted(for_consumers(keys, endpoint))))
    for steering in (admin.routes(), EventRoutes(supervisor).routes(), dashboard.routes()):
        app.add_routes(_guarded(steering, operators.only))
    for unguarded in (HealthRoutes(supervisor).routes(), operators.routes(), dashboard.public_routes()):
        app.add_routes(_guarded(unguarded, _unchanged))
    app.add_routes(_guarded(metrics.routes(), _unchanged if config.metrics.public else operators.only))

    async def supervise(_: web.Application) -> AsyncIterator[None]:
        await supervisor.start()
        yield
        await supervisor.close()
        metrics.close()
        await admin.close()

    async def end_events(_: web.Application) -> None:
        supervisor.observation.events.close()

    # A server that ends the host as a part of it waits for its answers first: these would never end.
    app.on_shutdown.append(end_events)
    app.cleanup_ctx.append(supervise)
    return app


def _unchanged(endpoint: Endpoint) -> Endpoint:
    return endpoint


def _guarded(routes: list[web.RouteDef], guard: Callable[[Endpoint], Endpoint]) -> list[web.RouteDef]:
    """Return the routes with the guard before each of them."""
    return [
        web.route(route.method, route.path, guard(route.handler), expect_handler=expectation, **route.kwargs)
        for route in routes
    ]
