"""A studio, a catalogue and a page, put together."""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from lib_adapters.app import options
from lib_adapters.app.drawing import settings_of
from lib_adapters.app.page import layout, server
from lib_adapters.app.page.painter import Painter
from lib_adapters.catalogue import Catalogue
from lib_adapters.files.families import FAMILY_NAMES
from lib_adapters.hosts.pipeline.folder import Pipeline, roots_of
from lib_adapters.hosts.pipeline.shelf import Shelf
from lib_adapters.hosts.pipeline.studio import Studio
from lib_adapters.hosts.tab.guard import guards
from lib_adapters.hosts.tab.shell import shell
from lib_adapters.hosts.tab.tab import Tab
from lib_adapters.patching.targets import Table

FIRST_PROMPT = "a red circle on a white background"  # of the kind that the bundled model knows


def folders_of(model: Path, more: Sequence[Path]) -> list[Path]:
    """The bundled adapters fit the bundled model alone."""
    usual = [folder for folder in options.folders_of([], model) if folder != options.ADAPTERS or model == options.MODEL]
    return list(dict.fromkeys([*usual, *(options.folders_of(more, model) if more else [])]))


def application(given: argparse.Namespace, stack: ExitStack, address: str) -> FastAPI:
    """What it opens is closed with `stack`."""
    files, folders = server.tab_files(), folders_of(given.model, given.adapters)
    studio = stack.enter_context(Studio.open(given.model, options.device_of(given.device), Shelf(folders)))
    catalogue = Catalogue(lambda: folders, given.out / "catalogue")
    stack.callback(catalogue.close)
    painter = Painter(studio, folders, given.out, catalogue.used)
    stack.callback(painter.stop)
    tab = _tab(catalogue, painter, studio, folders)
    defaults = layout.Defaults(FIRST_PROMPT, settings_of(given), own_size(studio.pipe))
    markup = shell(tab, prompts=layout.PROMPTS, negatives=layout.NEGATIVES, gallery=layout.GALLERY, name="page")
    page = layout.page_of(painter, defaults, markup, server.addresses(files))
    catalogue.start()
    return server.application(page, tab, files, address)


def own_size(pipe: Pipeline) -> tuple[int, int]:
    """The width and height that the model was trained for."""
    latent: Any = getattr(getattr(pipe.unet, "config", None), "sample_size", 64)
    side = int(latent) * int(getattr(pipe, "vae_scale_factor", 8))
    return side, side


def _tab(catalogue: Catalogue, painter: Painter, studio: Studio, folders: Sequence[Path]) -> Tab:
    key = secrets.token_urlsafe(24)
    unet, *encoders = roots_of(studio.pipe).values()
    family = Table.of(unet, encoders).family
    told = ("", "") if family == "unknown" else (family, FAMILY_NAMES[family])
    return Tab(
        catalogue=catalogue,
        guards=guards(key, ()),
        model=lambda: told,
        folders=lambda: _labels(folders),
        rescan=painter.rescan,
        key=key,
    )


def _labels(folders: Sequence[Path]) -> list[tuple[str, Path]]:
    names = ["Bundled" if folder == options.ADAPTERS else folder.name for folder in folders]
    pairs = zip(names, folders, strict=True)
    return [(name if names.count(name) == 1 else str(folder), folder) for name, folder in pairs]
