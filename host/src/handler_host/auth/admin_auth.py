"""Who may do what operators do: who has the admin token, or a cookie that was given for it.

A cookie is sent by a browser without being asked, so each change has to come with
the session's CSRF token, too, which no other site can read.
"""

from __future__ import annotations

import time

import msgspec
from aiohttp import hdrs, web

from handler_host.auth.audit import READING, Audit
from handler_host.auth.consumer_auth import Endpoint, KeyRing, presented_key
from handler_host.auth.failed_login_throttle import Throttle
from handler_host.auth.sessions import LIFETIME, Session, Sessions, same
from handler_host.dispatch.dispatcher import json_answer
from handler_host.http import request_context
from handler_host.http.client_address import address_of
from handler_host.http.request_limits import RequestLimits
from handler_host.plugin.errors import Forbidden, InvalidInput, Unauthorized
from handler_host.telemetry.counters import Counters

COOKIE = "handler_host_session"
CSRF_HEADER = "X-CSRF-Token"
FETCH_SITE = "Sec-Fetch-Site"
"""What browsers say of the page that sends a request (Fetch Metadata)."""


class SignIn(msgspec.Struct, forbid_unknown_fields=True):
    """What is sent to sign in."""

    token: str


class AdminAuth:
    """The gate of the admin routes, and the routes of the sessions."""

    def __init__(self, keys: KeyRing, audit: Audit, counters: Counters, limits: RequestLimits) -> None:
        self._keys = keys
        self._audit = audit
        self._counters = counters
        self._limits = limits
        self._sessions = Sessions()
        self._throttle = Throttle()

    def only(self, endpoint: Endpoint) -> Endpoint:
        """Return ``endpoint`` for operators only, with what they change in the audit log."""
        audited = self._audit.audited(endpoint)

        async def guarded(request: web.Request) -> web.StreamResponse:
            request_context.current.get().operator = await self._who(request)
            return await audited(request)

        return guarded

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of sessions, which guard themselves."""
        return [
            web.get("/admin/session", self.show),
            web.post("/admin/session", self.sign_in),
            web.delete("/admin/session", self.sign_out),
        ]

    async def show(self, request: web.Request) -> web.StreamResponse:
        """Tell a page that was loaded anew whether it is signed in, and the CSRF token of its session."""
        session = self._session(request)
        return _told(session) if session is not None else json_answer({"signed_in": False})

    async def sign_in(self, request: web.Request) -> web.StreamResponse:
        """Give a cookie for the admin token."""
        self._refuse_other_sites(request)
        try:
            given = msgspec.json.decode(await self._limits.json_body(request), type=SignIn)
        except msgspec.ValidationError as error:
            raise InvalidInput(f'the body has to be {{"token": "..."}}: {error}') from None
        try:
            await self._check(request, given.token.strip())
        except Unauthorized:
            self._audit.note(request, "sign in", Unauthorized.code, status=401)
            raise Unauthorized("this is not the admin token") from None
        cookie, session = self._sessions.open()
        request_context.current.get().operator = session.name
        self._audit.note(request, "sign in", "ok", status=200)
        response = _told(session)
        secure = request.secure or request.headers.get("X-Forwarded-Proto", "").lower() == "https"
        response.set_cookie(
            COOKIE,
            cookie,
            path=_cookie_path(request),
            max_age=int(LIFETIME),
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
            self._sessions.close(request.cookies[COOKIE])
            self._audit.note(request, "sign out", "ok", status=200)
        response = json_answer({"signed_in": False})
        response.del_cookie(COOKIE, path=_cookie_path(request))
        return response

    async def _who(self, request: web.Request) -> str:
        """Return who asks; raises ``Unauthorized`` and ``Forbidden``."""
        key = presented_key(request)
        if key is None:
            session = self._session(request)
            if session is None:
                if not self._keys.has_admin:
                    raise Forbidden(_CLOSED)
                raise Unauthorized("this route needs the admin token: send it as 'Authorization: Bearer TOKEN'")
            if request.method not in READING:
                self._check_csrf(request, session)
            return session.name
        await self._check(request, key)
        return "token"

    async def _check(self, request: web.Request, key: str) -> None:
        """Return if ``key`` is the admin token; who sends wrong ones again and again waits for the answer."""
        if not self._keys.has_admin:
            raise Forbidden(_CLOSED)
        address = address_of(request)
        if not self._throttle.crowded(address):
            if self._keys.is_admin(key):
                self._throttle.succeeded(address)
                return
            if self._keys.is_consumer(key):
                raise Forbidden("an API key opens no admin route: send the admin token")
        self._counters.wrong_keys["operator"] += 1
        await self._throttle.failed(address)
        raise Unauthorized("this is not the admin token: see HANDLER_HOST_ADMIN_TOKEN")

    def _session(self, request: web.Request) -> Session | None:
        cookie = request.cookies.get(COOKIE)
        return self._sessions.find(cookie) if cookie is not None else None

    def _check_csrf(self, request: web.Request, session: Session) -> None:
        self._refuse_other_sites(request)
        if not same(request.headers.get(CSRF_HEADER, ""), session.csrf):
            raise Forbidden(f"a change by cookie needs the session's token in {CSRF_HEADER}: load the page anew")

    def _refuse_other_sites(self, request: web.Request) -> None:
        """Raise ``Forbidden`` for what the page of another site has sent."""
        site = request.headers.get(FETCH_SITE, "same-origin")
        origin = request.headers.get(hdrs.ORIGIN)
        foreign = origin is not None and origin.partition("://")[2] != request.headers.get(hdrs.HOST)
        if site not in ("same-origin", "none") or (foreign and FETCH_SITE not in request.headers):
            raise Forbidden("the page of another site cannot sign in or change anything here")


_CLOSED = "the admin routes are closed, as there is no admin token: set HANDLER_HOST_ADMIN_TOKEN"


def _cookie_path(request: web.Request) -> str:
    """Return the path of the admin routes, wherever the application is mounted."""
    return request.path.removesuffix("/session")


def _told(session: Session) -> web.Response:
    left = max(0.0, session.ends_at - time.monotonic())
    return json_answer({"signed_in": True, "name": session.name, "csrf": session.csrf, "ends_in": left})
