"""A studio, a catalogue and a page, put together."""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from lib_adapters.app import options
from lib_adapters.app.drawing import settings_of
from lib_adapters.app.page import layout, server
from lib_adapters.app.page.making import Maker
from lib_adapters.app.page.painter import Painter
from lib_adapters.catalogue import Catalogue
from lib_adapters.catalogue.presets import FILE, PresetFile
from lib_adapters.files.model_family import FAMILY_NAMES
from lib_adapters.hosts.diffusers.clip_projection import find_clip_folder
from lib_adapters.hosts.diffusers.folder_resolver import FolderResolver
from lib_adapters.hosts.diffusers.generator import Generator
from lib_adapters.hosts.diffusers.load_pipeline import Pipeline, components_of
from lib_adapters.hosts.tab.guard import guards
from lib_adapters.hosts.tab.shell import shell
from lib_adapters.hosts.tab.tab import Tab
from lib_adapters.patching.layers import LayerTable

OWN = "aesthetic_embeddings"  # beside the pictures: what is made here
FIRST_PROMPT = "a red circle on a white background"  # of the kind that the bundled model knows


def folders_of(model: Path, more: Sequence[Path]) -> list[Path]:
    """The bundled adapters fit the bundled model alone."""
    usual = [folder for folder in options.folders_of([], model) if folder != options.ADAPTERS or model == options.MODEL]
    return list(dict.fromkeys([*usual, *(options.folders_of(more, model) if more else [])]))


def application(given: argparse.Namespace, stack: ExitStack, address: str) -> FastAPI:
    """What it opens is closed with `stack`."""
    own = (given.out / OWN).resolve()
    files, folders = server.tab_files(), list(dict.fromkeys([*folders_of(given.model, given.adapters), own]))
    device = options.device_of(given.device)
    presets = PresetFile(given.presets or given.out / FILE)
    studio = stack.enter_context(Generator.open(given.model, device, FolderResolver(folders)))
    studio = replace(studio, presets=presets.presets)

    def shown() -> list[Path]:
        return [folder for folder in folders if folder != own or own.is_dir()]

    catalogue = Catalogue(shown, given.out / "catalogue")
    stack.callback(catalogue.close)
    painter = Painter(studio, folders, given.out, catalogue.used)
    stack.callback(painter.stop)

    def made() -> None:
        painter.rescan()
        catalogue.start()

    maker = Maker(find_clip_folder(given.model), own, device, made)
    stack.callback(maker.stop)
    tab = _tab(catalogue, painter, studio, presets, lambda: _labels(shown(), own))
    defaults = layout.Defaults(FIRST_PROMPT, settings_of(given), own_size(studio.pipe))
    markup = shell(tab, prompts=layout.PROMPTS, negatives=layout.NEGATIVES, gallery=layout.GALLERY, name="page")
    page = layout.page_of(painter, maker, defaults, markup, server.addresses(files))
    catalogue.start()
    return server.application(page, tab, files, address)


def own_size(pipe: Pipeline) -> tuple[int, int]:
    """The width and height that the model was trained for."""
    latent: Any = getattr(getattr(pipe.unet, "config", None), "sample_size", 64)
    side = int(latent) * int(getattr(pipe, "vae_scale_factor", 8))
    return side, side


def _tab(
    catalogue: Catalogue,
    painter: Painter,
    studio: Generator,
    presets: PresetFile,
    folders: Callable[[], list[tuple[str, Path]]],
) -> Tab:
    key = secrets.token_urlsafe(24)
    unet, *encoders = components_of(studio.pipe).values()
    family = LayerTable.from_model(unet, encoders).family
    told = ("", "") if family == "unknown" else (family, FAMILY_NAMES[family])
    return Tab(
        catalogue=catalogue,
        guards=guards(key, ()),
        model=lambda: told,
        folders=folders,
        rescan=painter.rescan,
        key=key,
        presets=presets,
        report=painter.report,
    )


def _labels(folders: Sequence[Path], own: Path) -> list[tuple[str, Path]]:
    ours = {options.ADAPTERS: "Bundled", own: "Created here"}
    names = [ours.get(folder, folder.name) for folder in folders]
    pairs = zip(names, folders, strict=True)
    return [(name if names.count(name) == 1 else str(folder), folder) for name, folder in pairs]
