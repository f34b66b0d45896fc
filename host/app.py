"""The composition root: one place where everything is wired."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import web

from host.admin import AdminRoutes
from host.auth import KeyRing, for_consumers, for_operators
from host.config import Config
from host.dispatch import Dispatcher, NativeRoutes
from host.health import HealthRoutes
from host.http_errors import error_middleware
from host.openai_api import OpenAIRoutes
from host.request_limits import RequestLimits
from host.supervisor import Observer, Supervisor

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
    openai = OpenAIRoutes(supervisor, dispatcher, limits)
    admin = AdminRoutes(supervisor, limits)

    app = web.Application(middlewares=[error_middleware()], client_max_size=config.server.max_body)
    app[SUPERVISOR] = supervisor
    for method, path, endpoint in HealthRoutes(supervisor).routes():
        app.router.add_route(method, path, endpoint)
    for method, path, endpoint in [*native.routes(), *openai.routes()]:
        app.router.add_route(method, path, limits.counted(for_consumers(keys, endpoint)))
    for method, path, endpoint in admin.routes():
        app.router.add_route(method, path, for_operators(keys, endpoint))

    async def supervise(_: web.Application) -> AsyncIterator[None]:
        await supervisor.start()
        yield
        await supervisor.close()
        await admin.close()

    app.cleanup_ctx.append(supervise)
    return app
