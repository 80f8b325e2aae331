"""Middleware that refuses requests from pages of other sites, because gradio would answer them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

REFUSAL = b"Another site's page may not ask here."


class OwnPagesOnly:
    """A browser says which page a request comes from; other programs say nothing and are let in."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or not _is_foreign(dict(scope["headers"])):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": REFUSAL})


def _is_foreign(headers: Mapping[bytes, bytes]) -> bool:
    """A proxy may have changed the host that was asked for, and then says so; no page can say it for itself."""
    origin = headers.get(b"origin")
    if origin is None:
        return False
    return origin.rpartition(b"://")[2] not in (headers.get(b"host"), headers.get(b"x-forwarded-host"))
