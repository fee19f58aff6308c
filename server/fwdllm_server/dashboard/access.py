"""Access to the dashboard: for everyone on this machine, and for other machines with the token."""

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
    # Load nothing from other sites, run no inline scripts, and forbid other pages to embed this one.
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
    """Return the host of a request's Host header, without the port."""
    host, _, port = request.host.rpartition(":")
    return host if port.isdigit() else request.host


class Access:
    """Admits authorised requests. ``denied`` answers the others.

    A request counts as local if it comes from a loopback address, asks for a loopback name and was not forwarded by a
    proxy. The check of the name prevents DNS rebinding.
    """

    def __init__(self, token: str, denied: Handler) -> None:
        assert token, "an empty token would admit everyone"
        self._token = token.encode()
        self._cookie = hmac.new(self._token, b"fwdllm dashboard cookie 1", hashlib.sha256).hexdigest()
        self._denied = denied

    @property
    def middleware(self) -> Middleware:
        """The middleware for :class:`aiohttp.web.Application`."""

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
        """Store the token in a cookie, and redirect to an address without it, which browsers keep and show."""
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
    """Add the security headers to a response; a signal handler that also applies to errors."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers[hdrs.SERVER] = "fwdllm"


def _is_local(request: web.Request) -> bool:
    forwarded = any(header in request.headers for header in _FORWARDED)
    return not forwarded and is_loopback(request.remote or "") and is_loopback(asked_name(request))


def _bytes(text: str) -> bytes:
    """Return a header's original bytes: aiohttp decodes bytes that are not UTF-8 to lone surrogates."""
    return text.encode("utf-8", "surrogatepass")
