"""Every callback of the host, once; and everything away again when the scripts are unloaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from lib_adapters.hosts.webui import (
    accordion,
    api,
    creating,
    host,
    infotext,
    networks,
    options,
    page,
    rivals,
    settings,
    xyz,
)
from lib_adapters.hosts.webui.runtime import Runtime


def start(package: ModuleType, folder: str) -> type | None:
    """Called while the host loads scripts. The script that it shows; None where the tags are left to the host."""
    if relative := host.unsupported():
        host.say(f"{relative} is not served yet; all tags are left to it.")
        return None
    if reason := rivals.stranger(package, folder):
        host.say(reason)
        return None
    with contextlib.suppress(OSError):  # a read-only place has no files to find
        settings.own_folder().mkdir(parents=True, exist_ok=True)
    runtime = Runtime()
    options.declare(lambda: choices(runtime), runtime.names.rescan)
    _listen(runtime)
    return accordion.script_of(host.module("scripts"), runtime.aesthetics)


def choices(runtime: Runtime) -> list[str]:
    names = runtime.names
    return sorted((names.shortest(path).removesuffix(path.suffix) for path in names.files()), key=str.casefold)


def _listen(runtime: Runtime) -> None:
    callbacks = host.module("script_callbacks")

    def before_ui() -> None:
        networks.register(runtime)
        page.register(runtime.cards.tab)
        xyz.add_axes(runtime.names, lambda: choices(runtime), runtime.cards.presets.presets)

    def created() -> None:
        runtime.aesthetics.names.rescan()
        runtime.cards.catalogue.start()

    def app_started(_: Any, app: Any) -> None:
        """The built-in registers `lora` after us; this callback is the last."""
        networks.register(runtime)
        api.add_routes(app, runtime)
        runtime.cards.catalogue.start()
        for sentence in rivals.found():
            host.say(sentence)

    def script_unloaded() -> None:
        networks.unregister(runtime)
        runtime.cards.catalogue.close()
        with _no_job():
            runtime.restore()

    def infotext_pasted(_: str, parameters: dict[str, Any]) -> None:
        infotext.pasted(parameters, runtime.names, runtime.hashes)

    callbacks.on_before_ui(before_ui)
    callbacks.on_ui_tabs(lambda: creating.tab(created))
    callbacks.on_app_started(app_started)
    callbacks.on_script_unloaded(script_unloaded)
    callbacks.on_cfg_denoiser(runtime.denoising)
    callbacks.on_infotext_pasted(infotext_pasted)


@contextlib.contextmanager
def _no_job() -> Iterator[None]:
    """While no picture is being made: weights must not change under one."""
    lock = getattr(host.optional("call_queue"), "queue_lock", None)
    with lock if lock is not None else contextlib.nullcontext():
        yield
