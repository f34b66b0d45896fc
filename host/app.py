"""The composition root: one place where everything is wired."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from aiohttp import web

from host.admin import AdminRoutes
from host.anthropic_api import REQUEST_ID, AnthropicRoutes
from host.anthropic_api import envelope as anthropic_envelope
from host.api_docs import ApiDocsRoutes
from host.auth import Endpoint, KeyRing, for_consumers, for_operators
from host.chat_api import ChatApi
from host.config import Config
from host.dispatch import Dispatcher, NativeRoutes
from host.gemini_api import GeminiRoutes
from host.gemini_api import envelope as gemini_envelope
from host.health import HealthRoutes
from host.http_errors import error_middleware, expectation, speaking
from host.openai_api import OpenAIRoutes
from host.request_limits import RequestLimits
from host.responses_api import ResponsesRoutes
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
    chats = ChatApi(supervisor, dispatcher)
    openai = OpenAIRoutes(chats, limits)
    responses = ResponsesRoutes(chats, limits)
    anthropic = AnthropicRoutes(chats, limits)
    gemini = GeminiRoutes(chats, limits)
    admin = AdminRoutes(supervisor, limits)
    docs = ApiDocsRoutes(supervisor)

    def consumers(endpoint: Endpoint) -> Endpoint:
        return limits.counted(for_consumers(keys, endpoint))

    def anthropic_consumers(endpoint: Endpoint) -> Endpoint:
        return speaking(anthropic_envelope, consumers(endpoint), request_id=REQUEST_ID)

    def gemini_consumers(endpoint: Endpoint) -> Endpoint:
        return speaking(gemini_envelope, limits.counted(for_consumers(keys, endpoint, parameter="key")))

    app = web.Application(middlewares=[error_middleware()], client_max_size=config.server.max_body)
    app[SUPERVISOR] = supervisor
    app.add_routes(_guarded(HealthRoutes(supervisor).routes(), lambda endpoint: endpoint))
    app.add_routes(_guarded(native.routes(), consumers))
    app.add_routes(anthropic.beside(_guarded(openai.routes(), consumers), anthropic_consumers))
    app.add_routes(_guarded(anthropic.routes(), anthropic_consumers))
    app.add_routes(_guarded(responses.routes(), consumers))
    app.add_routes(_guarded(gemini.routes(), gemini_consumers))
    app.add_routes(_guarded(docs.routes(), consumers))
    app.add_routes(_guarded(docs.open_routes(), lambda endpoint: endpoint))
    app.add_routes(_guarded(admin.routes(), lambda endpoint: for_operators(keys, endpoint)))

    async def supervise(_: web.Application) -> AsyncIterator[None]:
        await supervisor.start()
        yield
        await supervisor.close()
        await admin.close()

    app.cleanup_ctx.append(supervise)
    return app


def _guarded(routes: list[web.RouteDef], guard: Callable[[Endpoint], Endpoint]) -> list[web.RouteDef]:
    """Return the routes with the guard before each of them."""
    return [
        web.route(route.method, route.path, guard(route.handler), expect_handler=expectation, **route.kwargs)
        for route in routes
    ]
