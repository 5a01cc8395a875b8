"""Protection of a local server against web pages: which requests it answers, and what browsers may do with answers."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Guard"]

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Callable[[], Awaitable[Message]], Send], Awaitable[None]]

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; style-src-attr 'unsafe-inline'; img-src data: blob:; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]


class Guard:
    """Refuse requests under a foreign host name (DNS rebinding) and those that a foreign web page sends.

    Args:
        app: the application.
        hosts: host names of the server; ``localhost`` and IP addresses, which cannot be rebound, always count.
    """

    def __init__(self, app: App, hosts: Collection[str] = ()) -> None:
        self._app = app
        self._hosts = {"localhost", *(host.lower() for host in hosts)}

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
            await send(message)

        refusal = self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send_with_headers)
            return
        status, detail = refusal
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send_with_headers({"type": "http.response.start", "status": status, "headers": headers})
        await send_with_headers({"type": "http.response.body", "body": json.dumps({"detail": detail}).encode()})

    def _refusal(self, scope: Message) -> tuple[int, str] | None:
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value)
        hosts = [value.decode("latin-1") for value in headers.get(b"host", [])]
        if len(hosts) != 1 or not self._is_own(hosts[0]):
            return 421, f"the host {', '.join(hosts)[:200]!r} is not this server; allow it with --allow-host"
        if scope["method"] in ("GET", "HEAD"):
            return None
        origins = [value.decode("latin-1") for value in headers.get(b"origin", [])]
        foreign = any(_authority(origin) != hosts[0].lower() for origin in origins)
        site = headers.get(b"sec-fetch-site", [b"same-origin"])[0]
        if foreign or site not in (b"same-origin", b"none"):
            return 403, "requests of other web pages are refused"
        return None

    def _is_own(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name in self._hosts:
                return True
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _authority(origin: str) -> str | None:
    """Return host and port of an origin, None for one that has none."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None
