"""A route class with a limit on the body and errors as one sentence, and its JSON response."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from lib_adapters.errors import AdapterError
from lib_adapters.library.details import json_safe

MAX_BODY_BYTES = 44 << 20  # a picture of 32 MB, as base64
NOT_UNDERSTOOD = "The request could not be understood: it needs a JSON object, and numbers where numbers belong."


class HTTPProblem(Exception):
    """An answer other than 200, and why."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class SafeJSONResponse(JSONResponse):
    """Of anything: a file's name may be no text, and what a trainer wrote no number."""

    def render(self, content: Any) -> bytes:
        return super().render(json_safe(content))


class SizeLimitedRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                answer: Response = await handle(await _read(request))
            except HTTPProblem as reason:
                return _sentence(reason.status, str(reason))
            except RequestValidationError:
                return _sentence(422, NOT_UNDERSTOOD)
            except AdapterError as error:
                return _sentence(422, str(error))
            return answer

        return handler


def _sentence(status: int, text: str) -> Response:
    return SafeJSONResponse({"error": text}, status)


async def _read(request: Request) -> Request:
    """The same request with its body in memory; fastapi itself would read one of any size."""
    announced = request.headers.get("content-length", "")
    size, parts = int(announced[:20]) if announced.isdecimal() else 0, []
    more = True
    while more and size <= MAX_BODY_BYTES:
        message = await request.receive()
        parts.append(message.get("body", b""))
        size = max(size, sum(map(len, parts)))
        more = bool(message.get("more_body"))
    if size > MAX_BODY_BYTES:
        raise HTTPProblem(413, "This is larger than 32 MB; use a smaller picture.")
    return Request(request.scope, _giving({"type": "http.request", "body": b"".join(parts), "more_body": False}))


def _giving(message: Any) -> Callable[[], Awaitable[Any]]:
    async def receive() -> Any:
        return message

    return receive
