"""Middleware in front of the API: the token, limits of size and time, and security headers."""

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

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'"
)
"""Content Security Policy (Level 3) of the page. It may load its own files, show images that the
user selects, and send requests to this server."""

DOCS_PATH = "/docs"
DOCS_CONTENT_POLICY = CONTENT_POLICY.replace("'self';", "'self' 'unsafe-inline';", 2)
"""The API documentation also runs an inline script, which starts its viewer."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}
"""Keep images and predictions out of caches; forbid other sites to embed or read them."""

TokenCheck = Callable[..., Awaitable[None]]


def require_token(token: str | None) -> TokenCheck:
    """Return a FastAPI dependency that refuses requests without the token; None accepts all."""
    bearer = HTTPBearer(auto_error=False, description=f"The server's {TOKEN_VARIABLE}.")
    from_header = Depends(bearer)

    async def check(credentials: HTTPAuthorizationCredentials | None = from_header) -> None:
        expected = (token or "").encode()
        received = (credentials.credentials if credentials else "").encode()
        if token is not None and not hmac.compare_digest(expected, received):
            raise HTTPException(
                401,
                "This server requires an access token; send it as Authorization: Bearer TOKEN.",
                {"WWW-Authenticate": "Bearer"},
            )

    async def accept_all() -> None:
        pass

    return accept_all if token is None else check


class SecurityHeaders:
    """Adds ``HEADERS`` and a Content Security Policy to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request and add the headers to its response."""
        # With a route prefix, the path only ends in DOCS_PATH.
        is_docs = scope.get("path", "").endswith(DOCS_PATH)
        policy = DOCS_CONTENT_POLICY if is_docs else CONTENT_POLICY

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {**HEADERS, "Content-Security-Policy": policy}.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


class TimeLimit:
    """Ends requests that take too long, including those whose body arrives too slowly."""

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self.app, self.seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, or respond with status 503 if that takes too long."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        has_started = False

        async def send_and_note(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            async with asyncio.timeout(self.seconds):
                await self.app(scope, receive, send_and_note)
        except TimeoutError:
            if has_started:
                raise
            detail = (
                f"The request took longer than {self.seconds:g} s; send fewer images, or try "
                "again later."
            )
            # Without Retry-After, because the same request would take as long again.
            await JSONResponse({"detail": detail}, 503)(scope, receive, send)


class BodyLimit:
    """Refuses bodies that are too large, by their Content-Length or as soon as they exceed it."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, or respond with status 413 if its body is too large."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdecimal() and int(length) > self.max_bytes:
            error = self._too_large()
            response = JSONResponse({"detail": error.detail}, error.status_code)
            await response(scope, receive, send)
            return
        num_bytes = 0

        async def receive_limited() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self.max_bytes:
                raise self._too_large()
            return message

        await self.app(scope, receive_limited, send)

    def _too_large(self) -> HTTPException:
        return HTTPException(
            413,
            f"The request's body is larger than {self.max_bytes:,} bytes; send smaller or fewer "
            "images.",
        )
