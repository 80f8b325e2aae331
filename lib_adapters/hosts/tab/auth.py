"""Authentication: a session key for the page, HTTP Basic for API clients."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPBasic

HEADER, QUERY = "X-Lycoris-Key", "key"  # an <img> cannot send a header


def auth_dependencies(key: str, allowed: Sequence[tuple[str, str]]) -> list[Any]:
    """`allowed`: names and passwords. Where the host asks nobody, only other sites' pages are kept from writing."""
    basic = Depends(HTTPBasic(auto_error=False))

    def check(request: Request, credentials: Any = basic) -> None:
        given = request.headers.get(HEADER) or request.query_params.get(QUERY) or ""
        if _same(given, key):
            return
        if allowed and not (credentials is not None and _known(credentials, allowed)):
            # a page with the key of a server that is gone says so itself; asked, its browser would want a log-in
            ask = None if given else {"WWW-Authenticate": "Basic"}
            raise HTTPException(401, "Incorrect username or password", headers=ask)
        if request.method != "GET" and _is_foreign(request):
            raise HTTPException(403, "Another site's page may not change anything here.")

    return [Depends(check)]


def _is_foreign(request: Request) -> bool:
    """A browser says which page a writing request comes from; other programs say nothing."""
    origin = request.headers.get("origin")
    return origin is not None and origin.rpartition("://")[2] != request.headers.get("host")


def _known(credentials: Any, allowed: Sequence[tuple[str, str]]) -> bool:
    """All are compared, so that the time tells nothing."""
    pairs = [_same(credentials.username, user) & _same(credentials.password, password) for user, password in allowed]
    return any(pairs)


def _same(given: str, wanted: str) -> bool:
    return secrets.compare_digest(given.encode(), wanted.encode())
