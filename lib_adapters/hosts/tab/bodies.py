"""One kind of route: a body is capped while it is read, and whatever goes wrong is one sentence. One kind of answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from lib_adapters.catalogue.details import clean
from lib_adapters.errors import AdapterError

LARGEST = 44 << 20  # a picture of 32 MB, as base64
NOT_UNDERSTOOD = "The request could not be understood: it needs a JSON object, and numbers where numbers belong."


class Refused(Exception):
    """An answer other than 200, and why."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Json(JSONResponse):
    """Of anything: a file's name may be no text, and what a trainer wrote no number."""

    def render(self, content: Any) -> bytes:
        return super().render(clean(content))


class Route(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                answer: Response = await handle(await _read(request))
            except Refused as reason:
                return _sentence(reason.status, str(reason))
            except RequestValidationError:
                return _sentence(422, NOT_UNDERSTOOD)
            except AdapterError as error:
                return _sentence(422, str(error))
            return answer

        return handler


def _sentence(status: int, text: str) -> Response:
    return Json({"error": text}, status)


async def _read(request: Request) -> Request:
    """The same request with its body in memory; fastapi itself would read one of any size."""
    announced = request.headers.get("content-length", "")
    size, parts = int(announced[:20]) if announced.isdecimal() else 0, []
    more = True
    while more and size <= LARGEST:
        message = await request.receive()
        parts.append(message.get("body", b""))
        size = max(size, sum(map(len, parts)))
        more = bool(message.get("more_body"))
    if size > LARGEST:
        raise Refused(413, "This is larger than 32 MB; use a smaller picture.")
    return Request(request.scope, _giving({"type": "http.request", "body": b"".join(parts), "more_body": False}))


def _giving(message: Any) -> Callable[[], Awaitable[Any]]:
    async def receive() -> Any:
        return message

    return receive
