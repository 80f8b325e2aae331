"""Assembly of the stand-alone page from a generator, a library and a layout."""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from lib_adapters.app import arguments
from lib_adapters.app.image_output import read_settings
from lib_adapters.app.page import layout, server
from lib_adapters.app.page.create_panel import EmbeddingWorker
from lib_adapters.app.page.image_worker import ImageWorker
from lib_adapters.files.model_family import FAMILY_NAMES
from lib_adapters.hosts.diffusers.clip_projection import find_clip_folder
from lib_adapters.hosts.diffusers.folder_resolver import FolderResolver
from lib_adapters.hosts.diffusers.generator import Generator
from lib_adapters.hosts.diffusers.load_pipeline import Pipeline, components_of
from lib_adapters.hosts.tab.auth import auth_dependencies
from lib_adapters.hosts.tab.backend import TabBackend
from lib_adapters.hosts.tab.shell import shell
from lib_adapters.library import AdapterLibrary
from lib_adapters.library.preset_file import PRESET_FILE_NAME, PresetFile
from lib_adapters.patching.layers import LayerTable

OWN_FOLDER_NAME = "aesthetic_embeddings"  # beside the pictures: what is made here
FIRST_PROMPT = "a red circle on a white background"  # of the kind that the bundled model knows


def folders_of(model: Path, more: Sequence[Path]) -> list[Path]:
    """The bundled adapters fit the bundled model alone."""
    usual = [
        folder
        for folder in arguments.adapter_folders([], model)
        if folder != arguments.ADAPTERS or model == arguments.MODEL
    ]
    return list(dict.fromkeys([*usual, *(arguments.adapter_folders(more, model) if more else [])]))


def application(args: argparse.Namespace, stack: ExitStack, address: str) -> FastAPI:
    """What it opens is closed with `stack`."""
    own = (args.out / OWN_FOLDER_NAME).resolve()
    files, folders = server.tab_files(), list(dict.fromkeys([*folders_of(args.model, args.adapters), own]))
    device = arguments.device_of(args.device)
    presets = PresetFile(args.presets or args.out / PRESET_FILE_NAME)
    generator = stack.enter_context(Generator.open(args.model, device, FolderResolver(folders)))
    generator = replace(generator, presets=presets.presets)

    def shown() -> list[Path]:
        return [folder for folder in folders if folder != own or own.is_dir()]

    library = AdapterLibrary(shown, args.out / "catalogue")
    stack.callback(library.close)
    painter = ImageWorker(generator, folders, args.out, library.record_use)
    stack.callback(painter.stop)

    def made() -> None:
        painter.rescan()
        library.start()

    maker = EmbeddingWorker(find_clip_folder(args.model), own, device, made)
    stack.callback(maker.stop)
    tab = _tab(library, painter, generator, presets, lambda: _labels(shown(), own))
    defaults = layout.Defaults(FIRST_PROMPT, read_settings(args), native_size(generator.pipe))
    markup = shell(tab, prompts=layout.PROMPTS, negatives=layout.NEGATIVES, gallery=layout.GALLERY, name="page")
    page = layout.build_page(painter, maker, defaults, markup, server.addresses(files))
    library.start()
    return server.application(page, tab, files, address)


def native_size(pipe: Pipeline) -> tuple[int, int]:
    """The width and height that the model was trained for."""
    latent: Any = getattr(getattr(pipe.unet, "config", None), "sample_size", 64)
    side = int(latent) * int(getattr(pipe, "vae_scale_factor", 8))
    return side, side


def _tab(
    library: AdapterLibrary,
    painter: ImageWorker,
    generator: Generator,
    presets: PresetFile,
    folders: Callable[[], list[tuple[str, Path]]],
) -> TabBackend:
    key = secrets.token_urlsafe(24)
    unet, *encoders = components_of(generator.pipe).values()
    family = LayerTable.from_model(unet, encoders).family
    model_label = ("", "") if family == "unknown" else (family, FAMILY_NAMES[family])
    return TabBackend(
        library=library,
        dependencies=auth_dependencies(key, ()),
        model=lambda: model_label,
        folders=folders,
        rescan=painter.rescan,
        key=key,
        presets=presets,
        report=painter.report,
    )


def _labels(folders: Sequence[Path], own: Path) -> list[tuple[str, Path]]:
    ours = {arguments.ADAPTERS: "Bundled", own: "Created here"}
    names = [ours.get(folder, folder.name) for folder in folders]
    pairs = zip(names, folders, strict=True)
    return [(name if names.count(name) == 1 else str(folder), folder) for name, folder in pairs]
