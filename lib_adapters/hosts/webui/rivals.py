"""Other extensions that want the same tags or the same weights: found by name, explained in one sentence."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

from lib_adapters.hosts.webui import host

_BY_FOLDER = {
    "a1111-sd-webui-lycoris": "the old LyCORIS extension is enabled too; this one handles <lyco:...>: disable the old.",
    "webui-aesthetic-gradients": "the old aesthetic gradients extension is enabled too; this one has its accordion and "
    "finds its embeddings: disable the old.",
    "composable-lora": "composable-lora works on the built-in's adapters only; it has no effect on tags handled here.",
    "loractl": "loractl's schedules work on the built-in's adapters only; to use them, switch off "
    '"Handle <lora:...> as well".',
    "lora-block-weight": "lora-block-weight works on the built-in's adapters only; to use lbw=, switch off "
    '"Handle <lora:...> as well".',
}


def found() -> list[str]:
    """One sentence for each rival that is enabled."""
    folders = _enabled()
    texts = [text for part, text in _BY_FOLDER.items() if any(part in folder for folder in folders)]
    if "l_networks" in sys.modules and _BY_FOLDER["a1111-sd-webui-lycoris"] not in texts:
        texts.append(_BY_FOLDER["a1111-sd-webui-lycoris"])
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
