"""A page with prompt boxes, a gallery and the tab's shells, served with the real routes over a real catalogue."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import FileResponse, HTMLResponse

from lib_adapters.hosts.tab.auth import auth_dependencies
from lib_adapters.hosts.tab.backend import TabBackend
from lib_adapters.hosts.tab.routes import add_routes
from lib_adapters.hosts.tab.shell import shell
from lib_adapters.library import AdapterLibrary
from lib_adapters.library.preset_file import PRESET_FILE_NAME, PresetFile
from tests.support.browser_library import data_url, picture

ROOT = Path(__file__).resolve().parents[2]
KEY = "the page's key"
_STARTED_S = 20.0


@dataclass
class Site:
    """`family` is that of the model that the host has loaded; a test may change it."""

    folder: Path
    catalogue: AdapterLibrary
    presets: PresetFile
    address: str = ""
    family: tuple[str, str] = ("sd1", "Stable Diffusion 1.x")
    report: dict[str, Any] = field(default_factory=dict)
    label: str = "models/LyCORIS"
    _server: Any = field(default=None, repr=False)

    def tab(self) -> TabBackend:
        return TabBackend(
            library=self.catalogue,
            dependencies=auth_dependencies(KEY, [("someone", "else")]),
            model=lambda: self.family,
            folders=lambda: [(self.label, self.folder)],
            rescan=lambda: None,
            key=KEY,
            presets=self.presets,
            report=lambda: self.report,
        )

    def page(self, dark: bool = False) -> str:
        """Two tabs as in the host: the second is hidden until a test shows it."""
        scripts = "".join(f'<script src="/js/{path.name}"></script>' for path in sorted(ROOT.glob("javascript/*.js")))
        txt2img, img2img = (self._shell(name) for name in ("txt2img", "img2img"))
        return (
            '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f'<title>page</title><link rel="stylesheet" href="/style.css">{scripts}'
            f'<body class="{"dark" if dark else ""}" style="margin: 12px; background: {"#0b0f19" if dark else "#fff"}">'
            f'<div id="one">{_prompts("txt2img")}{txt2img}</div>'
            f'<div id="two" hidden>{_prompts("img2img")}{img2img}</div></body></html>'
        )

    def _shell(self, name: str) -> str:
        boxes = [f"#{name}_prompt textarea", *(["#hires_prompt textarea"] if name == "txt2img" else [])]
        negatives = [f"#{name}_neg_prompt textarea"]
        return shell(self.tab(), prompts=boxes, negatives=negatives, gallery=f"#{name}_gallery", name=name)

    def start(self) -> Site:
        app = FastAPI()
        add_routes(app, self.tab())
        self._add_page(app)
        config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off", ws="none")
        self._server = uvicorn.Server(config)
        threading.Thread(target=self._server.run, daemon=True).start()
        end = time.monotonic() + _STARTED_S
        while not self._server.started and time.monotonic() < end:
            time.sleep(0.02)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.address = f"http://127.0.0.1:{port}/"
        return self

    def _add_page(self, app: FastAPI) -> None:
        @app.get("/")
        def page(dark: int = 0) -> Response:
            return HTMLResponse(self.page(bool(dark)))

        @app.get("/style.css")
        def style() -> Response:
            return FileResponse(ROOT / "style.css", media_type="text/css")

        @app.get("/js/{name}")
        def script(name: str) -> Response:
            return FileResponse(ROOT / "javascript" / Path(name).name, media_type="text/javascript")

    def stop(self) -> None:
        self._server.should_exit = True
        self.catalogue.close()


def site(folder: Path, place: Path, *, wait: bool = True) -> Site:
    """A site over the files in `folder`, indexed unless `wait` is false."""
    catalogue = AdapterLibrary(lambda: [folder], place)
    catalogue.start()
    if wait:
        catalogue.wait()
    return Site(folder, catalogue, PresetFile(place / PRESET_FILE_NAME)).start()


def _prompts(name: str) -> str:
    hires = '<div id="hires_prompt"><textarea rows="2"></textarea></div>' if name == "txt2img" else ""
    gallery = data_url(picture((200, 60, 60), (64, 64)))
    return (
        f'<div id="{name}_prompt"><textarea rows="3" style="width: 100%"></textarea></div>{hires}'
        f'<div id="{name}_neg_prompt"><textarea rows="2" style="width: 100%"></textarea></div>'
        f'<div id="{name}_gallery"><img src="{gallery}" width="32" height="32" alt=""></div>'
    )
