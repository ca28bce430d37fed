"""What stands between the network and the API: token, size, time, and headers for browsers."""

import asyncio
import hmac
from collections.abc import Awaitable, Callable

from fastapi import Depends, HTTPException
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN_VARIABLE = "FER_API_TOKEN"  # noqa: S105 - a name, not a token
"""Environment variable that holds the token."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'"
)
"""What the page may do (Content Security Policy Level 3): load what lies beside it, show pictures
that it was given, and ask this server."""

DOCS_PATH = "/docs"
DOCS_POLICY = POLICY.replace("'self';", "'self' 'unsafe-inline';", 2)
"""The description of the API starts its reader by a script within the page."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
"""Pictures and what is said of them stay out of caches; other sites can't embed or read them."""

Check = Callable[..., Awaitable[None]]


def require_token(token: str | None) -> Check:
    """Return a dependency that refuses requests without the token; None lets all pass."""
    bearer = HTTPBearer(auto_error=False, description=f"The server's {TOKEN_VARIABLE}.")
    given_by = Depends(bearer)

    async def check(given: HTTPAuthorizationCredentials | None = given_by) -> None:
        expected, found = (token or "").encode(), (given.credentials if given else "").encode()
        if token is not None and not hmac.compare_digest(expected, found):
            raise HTTPException(
                401,
                "This server asks for its token: send it as Authorization: Bearer TOKEN.",
                {"WWW-Authenticate": "Bearer"},
            )

    async def pass_all() -> None:
        pass

    return pass_all if token is None else check


class SecurityHeaders:
    """Adds what browsers need to know to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        # Under a prefix the path begins with it.
        policy = DOCS_POLICY if scope.get("path", "").endswith(DOCS_PATH) else POLICY

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {**HEADERS, "Content-Security-Policy": policy}.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


class TimeLimit:
    """Ends requests that take too long, also those whose body comes too slowly."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self.app, self.seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and answer 503 in its place if that takes too long."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        has_begun = False

        async def send_once(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            async with asyncio.timeout(self.seconds):
                await self.app(scope, receive, send_once)
        except TimeoutError:
            if has_begun:
                raise
            told = f"This took more than {self.seconds:g} seconds: send less at once, or later."
            # Without Retry-After: the same again would take as long again.
            answer = JSONResponse({"detail": told}, 503)
            await answer(scope, receive, send)


class BodyLimit:
    """Refuses bodies that are too long, by what they announce or once they are."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdecimal() and int(announced) > self.max_bytes:
            refusal = self._refusal()
            await JSONResponse({"detail": refusal.detail}, refusal.status_code)(
                scope, receive, send
            )
            return
        seen = 0

        async def receive_some() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.max_bytes:
                raise self._refusal()
            return message

        await self.app(scope, receive_some, send)

    def _refusal(self) -> HTTPException:
        told = f"The body has more than {self.max_bytes:,} bytes: send smaller or fewer pictures."
        return HTTPException(413, told)
