"""Who may ask: the page itself by its key, other programs by the host's names and passwords."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPBasic

HEADER, QUERY = "X-Lycoris-Key", "key"  # an <img> cannot send a header


def guards(key: str, allowed: Sequence[tuple[str, str]]) -> list[Any]:
    """None where the host itself asks nobody. `allowed`: names and passwords."""
    if not allowed:
        return []
    basic = Depends(HTTPBasic(auto_error=False))

    def check(request: Request, credentials: Any = basic) -> None:
        given = request.headers.get(HEADER) or request.query_params.get(QUERY) or ""
        if _same(given, key) or (credentials is not None and _known(credentials, allowed)):
            return
        raise HTTPException(401, "Incorrect username or password", headers={"WWW-Authenticate": "Basic"})

    return [Depends(check)]


def _known(credentials: Any, allowed: Sequence[tuple[str, str]]) -> bool:
    """All are compared, so that the time tells nothing."""
    pairs = [_same(credentials.username, user) & _same(credentials.password, password) for user, password in allowed]
    return any(pairs)


def _same(given: str, wanted: str) -> bool:
    return secrets.compare_digest(given.encode(), wanted.encode())
