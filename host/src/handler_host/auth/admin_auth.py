"""Middleware of the admin routes: the admin token, or the cookie of a session opened with it.

A browser sends a cookie with every request, so each change must also send the session's CSRF token, which no other
site can read.
"""

from __future__ import annotations

import functools
import time

import msgspec
from aiohttp import hdrs, web

from handler_host.auth.audit_log import READ_METHODS, AuditLog
from handler_host.auth.failed_login_throttle import FailedLoginThrottle
from handler_host.auth.key_revocation import LiveRequests
from handler_host.auth.key_ring import KeyRing, KeySource
from handler_host.auth.sessions import LIFETIME_S, Session, Sessions, is_equal
from handler_host.http import request_context
from handler_host.http.body import BodyReader
from handler_host.http.client_address import address_of
from handler_host.http.responses import json_response
from handler_host.http.routing import Endpoint
from handler_host.plugin.errors import Forbidden, InvalidInput, RateLimited, Unauthorized
from handler_host.telemetry.counters import Counters

COOKIE = "handler_host_session"
CSRF_HEADER = "X-CSRF-Token"
FETCH_SITE = "Sec-Fetch-Site"
"""Relation of a request to the page that sent it, as browsers report it (Fetch Metadata)."""

_CLOSED = "the admin routes are closed: no admin token is configured; set HANDLER_HOST_ADMIN_TOKEN"


class SignIn(msgspec.Struct, forbid_unknown_fields=True):
    """Body of a sign-in."""

    token: str


class AdminAuth:
    """Authentication of operators, and the routes of their sessions. A consumer key opens none of them."""

    def __init__(
        self,
        keys: KeyRing,
        key_source: KeySource,
        audit_log: AuditLog,
        counters: Counters,
        bodies: BodyReader,
        session_key: bytes,
        throttle: FailedLoginThrottle,
    ) -> None:
        self._keys = keys
        self._key_source = key_source
        self._audit_log = audit_log
        self._counters = counters
        self._bodies = bodies
        self._sessions = Sessions(session_key)
        self._throttle = throttle
        self._live = LiveRequests()

    async def handle(self, request: web.Request, endpoint: Endpoint) -> web.StreamResponse:
        """Run the endpoint for an operator; raises ``Unauthorized`` and ``Forbidden``."""
        session = await self._operator(request)
        request_context.current.get().operator = "token" if session is None else session.name
        if session is None:
            return await endpoint(request)
        with self._live.track(functools.partial(self._sessions.is_open, session)):
            return await endpoint(request)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of sessions; they need no authentication in front of them."""
        return [
            web.get("/admin/session", self.show),
            web.post("/admin/session", self.sign_in),
            web.delete("/admin/session", self.sign_out),
        ]

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Return whether the browser is signed in, and the CSRF token of its session."""
        session = self._session(request)
        return _session_response(session) if session is not None else json_response({"signed_in": False})

    async def sign_in(self, request: web.Request) -> web.StreamResponse:
        """Open a session for the admin token."""
        self._refuse_other_sites(request)
        try:
            sign_in = msgspec.json.decode(await self._bodies.read_options(request), type=SignIn)
        except msgspec.ValidationError as error:
            raise InvalidInput(f'the body must be {{"token": "..."}}: {error}') from None
        try:
            await self._check_token(request, sign_in.token.strip())
        except Unauthorized:
            self._audit_log.write(request, "sign in", Unauthorized.code, status=401)
            raise Unauthorized("this is not the admin token") from None
        except RateLimited:
            self._audit_log.write(request, "sign in", RateLimited.code, status=429)
            raise
        cookie, session = self._sessions.open()
        request_context.current.get().operator = session.name
        self._audit_log.write(request, "sign in", "ok", status=200)
        response = _session_response(session)
        secure = request.secure or request.headers.get("X-Forwarded-Proto", "").lower() == "https"
        response.set_cookie(
            COOKIE,
            cookie,
            path=_cookie_path(request),
            max_age=int(LIFETIME_S),
            secure=secure,
            httponly=True,
            samesite="Strict",
        )
        return response

    async def sign_out(self, request: web.Request) -> web.StreamResponse:
        """End the session."""
        session = self._session(request)
        if session is not None:
            self._check_csrf(request, session)
            request_context.current.get().operator = session.name
            self._sessions.close(session)
            self._live.end_invalid()
            self._audit_log.write(request, "sign out", "ok", status=200)
        response = json_response({"signed_in": False})
        response.del_cookie(COOKIE, path=_cookie_path(request))
        return response

    async def _operator(self, request: web.Request) -> Session | None:
        """Return the operator's session, None for the token; raises ``Unauthorized`` and ``Forbidden``."""
        key = self._key_source.read(request)
        if key is not None:
            await self._check_token(request, key)
            return None
        session = self._session(request)
        if session is None:
            if not self._keys.has_admin:
                raise Forbidden(_CLOSED)
            raise Unauthorized("this route needs the admin token; send it as 'Authorization: Bearer TOKEN'")
        if request.method not in READ_METHODS:
            self._check_csrf(request, session)
        return session

    async def _check_token(self, request: web.Request, key: str) -> None:
        """Raise unless ``key`` is the admin token; repeated wrong keys of an address are delayed."""
        if not self._keys.has_admin:
            raise Forbidden(_CLOSED)
        address = address_of(request)
        # Whatever this address has sent before: behind a proxy all clients have one, and the operator must get in.
        if self._keys.is_admin(key):
            self._throttle.reset(address)
            return
        if self._keys.is_consumer(key):
            raise Forbidden("a consumer API key opens no admin route; use the admin token")
        self._counters.wrong_keys["operator"] += 1
        await self._throttle.delay_failure(address)
        raise Unauthorized("this is not the admin token; see HANDLER_HOST_ADMIN_TOKEN")

    def _session(self, request: web.Request) -> Session | None:
        cookie = request.cookies.get(COOKIE)
        return self._sessions.find(cookie) if cookie is not None else None

    def _check_csrf(self, request: web.Request, session: Session) -> None:
        self._refuse_other_sites(request)
        if not is_equal(request.headers.get(CSRF_HEADER, ""), session.csrf):
            raise Forbidden(f"a change by cookie needs the session's token in {CSRF_HEADER}; reload the page")

    def _refuse_other_sites(self, request: web.Request) -> None:
        """Raise ``Forbidden`` for a request from the page of another site."""
        site = request.headers.get(FETCH_SITE, "same-origin")
        origin = request.headers.get(hdrs.ORIGIN)
        is_foreign = origin is not None and origin.partition("://")[2] != request.headers.get(hdrs.HOST)
        if site not in ("same-origin", "none") or (is_foreign and FETCH_SITE not in request.headers):
            raise Forbidden("the page of another site cannot sign in or change anything here")


def _cookie_path(request: web.Request) -> str:
    """Return the path of the admin routes, wherever the application is mounted."""
    return request.path.removesuffix("/session")


def _session_response(session: Session) -> web.Response:
    ends_in_s = max(0.0, session.ends_at - time.time())
    return json_response({"signed_in": True, "name": session.name, "csrf": session.csrf, "ends_in": ends_in_s})
