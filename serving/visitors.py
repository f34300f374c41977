"""Identify visitors by cookie and reject requests from other sites."""
import re
import secrets
from collections.abc import Callable, Mapping
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from serving.jobs import RateLimit, Visitor

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN = re.compile(r"[A-Za-z0-9_-]{22}")
HOUR, DAY = 3600, 86400
NEW_PER_HOUR = 60   # new cookies per address; visitors beyond that share one limit
LOGINS = 10         # per minute and address
COOKIE_DAYS = 30
UPLOAD = "/gradio_api/upload"
MOST_BYTES = 1 << 20  # of a request that is not an upload
RESULTS = re.compile(r"/gradio_api/(?:queue/data|call/[^/]+/([^/]+))/?")  # URLs of results, with the id of a request
# Other sites may not frame the app, and browsers may not guess file types.
HEADERS = {"content-security-policy": "frame-ancestors 'self'", "x-frame-options": "SAMEORIGIN",
           "x-content-type-options": "nosniff", "referrer-policy": "same-origin"}


class Doorkeeper:
    """ASGI middleware: sets a cookie, adds ``HEADERS``, and rejects large requests and requests from other sites.

    Args:
        cookie: name of the cookie.
        known: tokens of visitors. New tokens are added.
        remember: called with a new token.
        leave: called with the session id if a client disconnects before it has received its results.
    """

    def __init__(self, app: "ASGIApp", cookie: str, known: set[str], remember: Callable[[str], None],
                 leave: Callable[[str], None]) -> None:
        self.app, self.cookie, self.known, self.remember, self.leave = app, cookie, known, remember, leave
        self.rate, self.logins = RateLimit(NEW_PER_HOUR, HOUR), RateLimit(LOGINS)

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            from starlette.responses import PlainTextResponse

            if not same_origin(headers):
                await PlainTextResponse("Other sites cannot use this app.", 403)(scope, receive, send)
                return
            if scope["path"].rstrip("/") == "/login" and self.logins.wait(address_of(scope)):
                await PlainTextResponse(f"At most {LOGINS} logins a minute.", 429)(scope, receive, send)
                return
            length = headers.get("content-length", "")
            if scope["path"] != UPLOAD and not (length.isdigit() and int(length) <= MOST_BYTES):
                await PlainTextResponse(f"Requests need a length of at most {MOST_BYTES} bytes.", 413)(
                    scope, receive, send)
                return
        token = self._new_token(scope, headers) if scope["path"] == "/" else None
        session = session_of(scope)

        async def ask() -> "Message":
            message = await receive()
            if message["type"] == "http.disconnect" and session:
                self.leave(session)
            return message

        async def answer(message: "Message") -> None:
            if message["type"] == "http.response.start":
                given = [(name.encode(), value.encode()) for name, value in HEADERS.items()
                         if not any(key.lower() == name.encode() for key, _ in message["headers"])]
                if token:
                    given.append((b"set-cookie", f"{self.cookie}={token}; Path=/; HttpOnly; SameSite=Lax; "
                                                 f"Max-Age={COOKIE_DAYS * DAY}".encode()))
                message = {**message, "headers": [*message["headers"], *given]}
            await send(message)

        await self.app(scope, ask, answer)

    def _new_token(self, scope: "Scope", headers: Mapping[str, str]) -> str | None:
        """Issue a token to a browser that has none, unless its address has received too many tokens."""
        given = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        if given is not None and given.value in self.known or self.rate.wait(address_of(scope)):
            return None
        token = secrets.token_urlsafe(16)
        self.known.add(token)
        self.remember(token)
        return token


def same_origin(headers: Mapping[str, str]) -> bool:
    """Return whether a request comes from the app, or from a program (which sends no ``Origin`` header).

    Header names are in lower case.
    """
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site", "none") in ("none", "same-origin")
    return urlsplit(origin).netloc in (headers.get("host"), headers.get("x-forwarded-host"))


def session_of(scope: Mapping[str, Any]) -> str:
    """Return the session id in a request for results. Returns "" for other requests, or if there is no id."""
    results = RESULTS.fullmatch(scope["path"])
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    return (results[1] or query.get("session_hash", [""])[0]) if results else ""


def address_of(scope: Mapping[str, Any]) -> str:
    """Return a key for the network address of the client."""
    client = scope.get("client")
    return f"address {client[0] if client else 'unknown'}"


class Guests:
    """Identification of visitors by cookie, browser tab or network address."""

    def __init__(self, cookie: str, known: set[str]) -> None:
        self.cookie, self.known = cookie, known

    def visitor(self, request: Any) -> Visitor:
        """Return the visitor who sent a request."""
        token = self._token(request)
        return Visitor(token or address_of(request.request.scope), str(request.session_hash))

    def owner(self, request: Any) -> str:
        """Return the key of the history: the cookie, else the browser tab, else the network address."""
        session = request.session_hash
        return self._token(request) or (f"session {session}" if session else address_of(request.request.scope))

    def _token(self, request: Any) -> str | None:
        token = request.cookies.get(self.cookie, "")
        return token if TOKEN.fullmatch(token) and token in self.known else None
