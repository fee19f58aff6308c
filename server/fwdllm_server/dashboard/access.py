"""Who may look: everybody on this machine, from elsewhere whoever has the token."""

from __future__ import annotations

import hashlib
import hmac

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from fwdllm_server.config.server_config import is_loopback

COOKIE = "fwdllm_dashboard"
_COOKIE_S = 30 * 86_400
_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")
_OPEN = "/static/"
HEADERS = {
    # Nothing from elsewhere is loaded, no script in the page itself runs, and no other page shows this one inside.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-cache",
}


def asked_name(request: web.Request) -> str:
    """The host that a request asks for, without a port."""
    host, _, port = request.host.rpartition(":")
    return host if port.isdigit() else request.host


class Access:
    """Lets requests in, or not; ``denied`` answers those that are not.

    A request of this machine has its address and asks for it by a loopback name: a page from elsewhere whose name was
    made to point here is none, nor is what a proxy passes on.
    """

    def __init__(self, token: str, denied: Handler) -> None:
        assert token, "without a token everybody would have it"
        self._token = token.encode()
        self._cookie = hmac.new(self._token, b"fwdllm dashboard cookie 1", hashlib.sha256).hexdigest()
        self._denied = denied

    @property
    def middleware(self) -> Middleware:
        """For :class:`aiohttp.web.Application`."""

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            token = request.query.get("token")
            if token is not None and request.path == "/" and self._is_token(token):
                return self._remember(request)
            if request.path.startswith(_OPEN) or _is_local(request) or self._has_credentials(request):
                return await handler(request)
            return await self._denied(request)

        return check

    def _remember(self, request: web.Request) -> web.Response:
        """The token goes into a cookie and out of the address, where it would be kept and shown."""
        answer = web.Response(status=303, headers={hdrs.LOCATION: "/"})
        answer.set_cookie(
            COOKIE, self._cookie, max_age=_COOKIE_S, httponly=True, samesite="Lax", secure=request.secure, path="/"
        )
        return answer

    def _has_credentials(self, request: web.Request) -> bool:
        kind, _, bearer = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        cookie = request.cookies.get(COOKIE, "")
        return hmac.compare_digest(_bytes(cookie), self._cookie.encode()) or (
            kind.lower() == "bearer" and self._is_token(bearer.strip())
        )

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(_bytes(text), self._token)


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """A signal for every answer, also of errors."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers[hdrs.SERVER] = "fwdllm"


def _is_local(request: web.Request) -> bool:
    forwarded = any(header in request.headers for header in _FORWARDED)
    return not forwarded and is_loopback(request.remote or "") and is_loopback(asked_name(request))


def _bytes(text: str) -> bytes:
    """As it came: what is no UTF-8 in a header aiohttp reads as lone surrogates."""
    return text.encode("utf-8", "surrogatepass")
