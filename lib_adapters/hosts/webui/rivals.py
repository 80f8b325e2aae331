"""Other extensions that want the same tags or the same weights: found by name, explained in one sentence."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

from lib_adapters.hosts.webui import host, settings

_OLD = "a1111-sd-webui-lycoris"
_ALWAYS = {
    _OLD: "the old LyCORIS extension is enabled too; this one handles <lyco:...>: disable the old.",
    "webui-aesthetic-gradients": "the old aesthetic gradients extension is enabled too; this one has its accordion and "
    "finds its embeddings: disable the old.",
}
# Extensions of the built-in Lora, which act on its adapters only: the sentence while <lora:...> is handled here, and
# the one while the built-in has it.
_OF_THE_BUILTIN = {
    "composable-lora": (
        "composable-lora has no effect on tags handled here; tags between two ANDs act on their part without it.",
        "composable-lora acts on the built-in's <lora:...> alone, not on <lyco:...>.",
    ),
    "loractl": (
        "schedules as loractl writes them work here without it, in <lora:...> and in <lyco:...>.",
        "loractl acts on the built-in's <lora:...> alone; in <lyco:...> the same schedules work without it.",
    ),
    "lora-block-weight": (
        "lbw=, lbwe=, start=, stop= and step= of lora-block-weight work here without it, with its own preset files, in "
        "<lora:...> and in <lyco:...>.",
        "lora-block-weight acts on the built-in's <lora:...> alone; in <lyco:...> lbw= and its other keys work "
        "without it.",
    ),
}


def found() -> list[str]:
    """One sentence for each rival that is enabled."""
    folders, ours = _enabled(), settings.handles_lora()
    sentences = _ALWAYS | {part: texts[0 if ours else 1] for part, texts in _OF_THE_BUILTIN.items()}
    texts = [text for part, text in sentences.items() if any(part in folder for folder in folders)]
    if "l_networks" in sys.modules and _ALWAYS[_OLD] not in texts:
        texts.append(_ALWAYS[_OLD])
    return texts


def stranger(package: ModuleType, folder: str) -> str | None:
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
    extensions = host.optional("extensions")
    active = getattr(extensions, "active", None)
    return [str(getattr(one, "name", "")).lower() for one in active()] if callable(active) else []
