"""Detection of extensions that handle the same tags or write the same weights, with one sentence for each."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

from lib_adapters.hosts.webui import settings, webui_modules

_OLD = "a1111-sd-webui-lycoris"
_ALWAYS = {
    _OLD: "the old LyCORIS extension is enabled too; this one handles <lyco:...>, so disable the old one.",
    "webui-aesthetic-gradients": "the old aesthetic gradients extension is enabled too; this one has its accordion and "
    "finds its embeddings: disable the old.",
}
# Extensions of the built-in Lora, which act on its adapters only: the message if <lora:...> is handled here, and the
# one if the built-in handles it.
_OF_THE_BUILTIN = {
    "composable-lora": (
        "composable-lora has no effect on tags handled here; a tag in an AND sub-prompt applies only to that one.",
        "composable-lora affects only the built-in's <lora:...>, not <lyco:...>.",
    ),
    "loractl": (
        "loractl is not needed: its schedules work here in <lora:...> and in <lyco:...>.",
        "loractl affects only the built-in's <lora:...>; in <lyco:...> its schedules work without it.",
    ),
    "lora-block-weight": (
        "lora-block-weight is not needed: lbw=, lbwe=, start=, stop= and step= and its preset files work here in "
        "<lora:...> and in <lyco:...>.",
        "lora-block-weight affects only the built-in's <lora:...>; in <lyco:...> lbw= and its other keys work "
        "without it.",
    ),
}


def active_conflicts() -> list[str]:
    """One sentence for each rival that is enabled."""
    folders, ours = _enabled(), settings.handles_lora()
    sentences = _ALWAYS | {part: texts[0 if ours else 1] for part, texts in _OF_THE_BUILTIN.items()}
    texts = [text for part, text in sentences.items() if any(part in folder for folder in folders)]
    if "l_networks" in sys.modules and _ALWAYS[_OLD] not in texts:
        texts.append(_ALWAYS[_OLD])
    return texts


def package_conflict(package: ModuleType, folder: str) -> str | None:
    """Why a package of our name is not ours: the first one of a name wins in a process."""
    where = getattr(package, "__file__", None)
    home = Path(where).resolve().parent.parent if where else None
    if home == Path(folder).resolve():
        return None
    return (
        f"{folder} stays off: another extension's `lib_adapters` ({home}) is loaded. "
        "If it is a second copy of this one, delete one of them; then restart."
    )


def _enabled() -> list[str]:
    extensions = webui_modules.import_optional("extensions")
    active = getattr(extensions, "active", None)
    return [str(getattr(one, "name", "")).lower() for one in active()] if callable(active) else []
