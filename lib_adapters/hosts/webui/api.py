"""Routes: what was applied last, and the list of adapters under the names that other programs know."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lib_adapters.hosts.webui import host, rivals
from lib_adapters.hosts.webui.names import read_metadata
from lib_adapters.hosts.webui.runtime import Runtime


def add_routes(app: Any, runtime: Runtime) -> None:
    """Plain functions, not coroutines: the host runs them beside its event loop."""
    guards = _guards()

    def report() -> dict[str, Any]:
        return {
            "lines": list(runtime.lines),
            "mode": runtime.report.mode,
            "seconds": runtime.report.seconds,
            "adapters": [dataclasses.asdict(one) for one in runtime.report.adapters],
            "rivals": rivals.found(),
        }

    def lycos() -> list[dict[str, Any]]:
        return [_described(path) for path in runtime.names.files()]

    app.add_api_route("/lycoris/api/report", report, methods=["GET"], dependencies=guards)
    app.add_api_route("/sdapi/v1/lycos", lycos, methods=["GET"], dependencies=guards)
    app.add_api_route("/sdapi/v1/refresh-lycos", _refresh(runtime), methods=["POST"], dependencies=guards)


def _refresh(runtime: Runtime) -> Callable[[], None]:
    return lambda: runtime.names.rescan()


def _described(path: Path) -> dict[str, Any]:
    metadata = dict(read_metadata(path))
    name = path.stem
    return {"name": name, "alias": metadata.get("ss_output_name", name), "path": str(path), "metadata": metadata}


def _guards() -> list[Any]:
    """The host protects only its own routes with --api-auth; ours ask for the same names and passwords."""
    text = host.flag("api_auth")
    if not text:
        return []
    import secrets

    from fastapi import Depends, HTTPException
    from fastapi.security import HTTPBasic

    allowed = [entry.partition(":")[::2] for entry in str(text).split(",")]

    basic = Depends(HTTPBasic())

    def check(credentials: Any = basic) -> None:
        given = (credentials.username.encode(), credentials.password.encode())
        for user, password in allowed:
            if secrets.compare_digest(given[0], user.encode()) and secrets.compare_digest(given[1], password.encode()):
                return
        raise HTTPException(401, "Incorrect username or password", headers={"WWW-Authenticate": "Basic"})

    return [Depends(check)]
