"""No test speaks to another machine: a hook of the interpreter sees every attempt, and nothing can take it away."""

from __future__ import annotations

import os
import sys
from typing import Any

WATCHED = ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname")
HERE = ("", "localhost", "::1", "::", "0.0.0.0", "testserver")
attempts: list[str] = []


class SpokeToAnother(OSError):
    """A test wanted to reach another machine."""


def is_here(host: object) -> bool:
    text = host.decode("ascii", "replace") if isinstance(host, bytes) else host
    return not isinstance(text, str) or text.lower() in HERE or text.startswith(("127.", "/", "\0"))


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not event.startswith("socket.") or event not in WATCHED:
        return
    where = arguments[0] if event in WATCHED[3:] else arguments[1]
    host = where[0] if isinstance(where, tuple) and where else where
    if not is_here(host):
        attempts.append(f"{event} {where}")
        raise SpokeToAnother(f"{host} is another machine")


def begin() -> None:
    """Tests import gradio before our page does, which tells it not to ask its makers for news."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    sys.addaudithook(watch)


def taken() -> list[str]:
    """The attempts since the last time."""
    found = list(attempts)
    attempts.clear()
    return found
