"""HTTP server of the stand-alone page: gradio's part, the tab's routes and files, on a free port."""

from __future__ import annotations

import errno
import os
import secrets
import socket
import sys
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse

from lib_adapters.app.page.same_origin import OwnPagesOnly
from lib_adapters.errors import AdapterError
from lib_adapters.hosts.tab.backend import TabBackend
from lib_adapters.hosts.tab.routes import add_routes

PROJECT = Path(__file__).resolve().parents[3]
FILES = "/lycoris/files"
MAX_PORTS = 20  # ports after the wanted one, before any that is free
ALL_INTERFACES = ("0.0.0.0", "::")


def tab_files() -> dict[str, Path]:
    """The tab's style sheet and scripts, which the web UI finds by itself."""
    scripts, style, start = sorted((PROJECT / "javascript").glob("*.js")), PROJECT / "style.css", "lycoris_main.js"
    if start not in [path.name for path in scripts] or not style.is_file():
        raise AdapterError(f"{PROJECT}: the page needs javascript/ and style.css beside lib_adapters; start it there.")
    scripts.sort(key=lambda path: path.name == start)  # on a page that is there already it begins at once
    return {path.name: path for path in [style, *scripts]}


def addresses(files: Mapping[str, Path]) -> list[str]:
    """With the time of the last change, so that a browser does not take its copy of an older one."""
    return [f".{FILES}/{name}?v={int(path.stat().st_mtime)}" for name, path in files.items()]


def application(page: gr.Blocks, tab: TabBackend, files: Mapping[str, Path], address: str) -> FastAPI:
    """`address` is where gradio finds itself: its queue asks over the network."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_routes(app, tab)

    @app.get(FILES + "/{name}", response_class=FileResponse)
    def file(name: str) -> FileResponse:
        if name not in files:
            raise HTTPException(404, "There is no such file.")
        return FileResponse(str(files[name]))

    gr.mount_gradio_app(app, page, "/", gradio_api_url=address)
    mounted: Any = app.routes[-1]
    app.add_middleware(OwnPagesOnly)
    mounted.app.cwd = str(PROJECT / secrets.token_hex())  # gradio gives any file below this folder: there is none
    return app


def listen(host: str, port: int) -> socket.socket:
    """The wanted port, or the next free one. The socket is kept, so nobody else can take it meanwhile."""
    for candidate in [port, *range(port + 1, min(port + MAX_PORTS, 65536)), 0]:
        try:
            return _bound(host, candidate)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise AdapterError(f"{host}, port {candidate}: {error.strerror or error}.") from error
    raise AdapterError(f"{host}: no port is free.")


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere this would share the port with whoever has it
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()  # on Linux two may bind to one port, but only one listens
    except OSError:
        listening.close()
        raise
    return listening


def address_of(listening: socket.socket) -> str:
    """What to type into a browser on this machine."""
    host, port = listening.getsockname()[:2]
    name = "127.0.0.1" if host in ALL_INTERFACES else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/"


def serve(app: FastAPI, listening: socket.socket, browser: bool) -> None:
    """Until Ctrl-C."""
    address = address_of(listening)
    for name in ("no_proxy", "NO_PROXY"):  # gradio would ask a proxy for its own answers
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), str(urlsplit(address).hostname)]))
    print(f"The page is at {address} (Ctrl-C ends it).", flush=True)
    if browser and _has_desktop():
        webbrowser.open(address)
    uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)).run(sockets=[listening])


def _has_desktop() -> bool:
    """Without one, Python would open a text browser in the console."""
    desktop = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return sys.platform in ("win32", "darwin") or bool(desktop)
