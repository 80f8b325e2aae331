"""Registration of all callbacks of the web UI, and their removal when scripts are unloaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from lib_adapters.hosts.webui import (
    aesthetic_script,
    api,
    conflicts,
    create_embedding_tab,
    extra_network,
    extra_networks_page,
    infotext,
    settings,
    webui_modules,
    xyz_grid,
)
from lib_adapters.hosts.webui.extension import Extension


def start(package: ModuleType, folder: str) -> type | None:
    """Called while the host loads scripts. The script that it shows; None where the tags are left to the host."""
    if relative := webui_modules.unsupported_fork():
        webui_modules.log(f"{relative} is not served yet; all tags are left to it.")
        return None
    if reason := conflicts.package_conflict(package, folder):
        webui_modules.log(reason)
        return None
    with contextlib.suppress(OSError):  # a read-only place has no files to find
        settings.lycoris_folder().mkdir(parents=True, exist_ok=True)
    runtime = Extension()
    settings.register_options(lambda: adapter_names(runtime), runtime.resolver.rescan)
    _listen(runtime)
    return aesthetic_script.create_script_class(webui_modules.import_module("scripts"), runtime.aesthetics)


def adapter_names(runtime: Extension) -> list[str]:
    names = runtime.resolver
    return sorted((names.shortest_name(path).removesuffix(path.suffix) for path in names.files()), key=str.casefold)


def _listen(runtime: Extension) -> None:
    callbacks = webui_modules.import_module("script_callbacks")

    def before_ui() -> None:
        extra_network.register(runtime)
        extra_networks_page.register(runtime.library_backend.tab)
        xyz_grid.add_axes(runtime.resolver, lambda: adapter_names(runtime), runtime.library_backend.preset_file.presets)

    def created() -> None:
        runtime.aesthetics.resolver.rescan()
        runtime.library_backend.library.start()

    def app_started(_: Any, app: Any) -> None:
        """The built-in registers `lora` after us; this callback is the last."""
        extra_network.register(runtime)
        api.add_routes(app, runtime)
        runtime.library_backend.library.start()
        for sentence in conflicts.active_conflicts():
            webui_modules.log(sentence)

    def script_unloaded() -> None:
        extra_network.unregister(runtime)
        runtime.library_backend.library.close()
        with _no_job():
            runtime.restore()

    def infotext_pasted(_: str, parameters: dict[str, Any]) -> None:
        infotext.resolve_pasted_names(parameters, runtime.resolver, runtime.hashes)

    callbacks.on_before_ui(before_ui)
    callbacks.on_ui_tabs(lambda: create_embedding_tab.build_tab(created))
    callbacks.on_app_started(app_started)
    callbacks.on_script_unloaded(script_unloaded)
    callbacks.on_cfg_denoiser(runtime.on_cfg_denoiser)
    callbacks.on_infotext_pasted(infotext_pasted)


@contextlib.contextmanager
def _no_job() -> Iterator[None]:
    """While no picture is being made: weights must not change under one."""
    lock = getattr(webui_modules.import_optional("call_queue"), "queue_lock", None)
    with lock if lock is not None else contextlib.nullcontext():
        yield
