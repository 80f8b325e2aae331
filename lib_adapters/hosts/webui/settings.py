"""The section `LyCORIS` of the settings page, and how the rest of the code reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lib_adapters.catalogue.presets import FILE, Source
from lib_adapters.hosts.webui import host

NOTHING = "None"
PARTS, NEGATIVE = "Lyco AND parts", "Lyco negative tags"  # in a picture's text, where they made a difference
REPORTS = ("everything", "problems only", "nothing")
MOST_CHOICES = 500
CLIP_FOLDER = "CLIP folder for aesthetic gradients"
_OLD_EXTENSION = "stable-diffusion-webui-aesthetic-gradients"
_SECTION = ("lycoris", "LyCORIS")


def declare(names: Callable[[], Sequence[str]], rescan: Callable[[], None]) -> None:
    """Add our options to the host's; `names` is called when the page is built."""
    shared = host.module("shared")
    radio, dropdown, number = _components()
    info = shared.OptionInfo

    def choices() -> dict[str, Any]:
        """All of ten thousand names would be sent with every page; others can be typed. The host also puts this into
        an update of the component, and that knows no more than choices."""
        return {"choices": [NOTHING, *names()[:MOST_CHOICES]]}

    options = {
        "lycoris_handle_lora": _explained(
            info(True, "Handle <lora:...> as well"),
            "every kind of adapter in either tag; off: <lora:...> stays with the built-in Lora",
        ),
        "lycoris_handle_hypernet": _explained(
            info(True, "Handle <hypernet:...> as well"),
            "only on the kind of model a file was made for, and with a line under the picture; off: as ever",
        ),
        "lycoris_default": _explained(
            info(NOTHING, "Add adapter to every prompt", dropdown, choices, refresh=rescan),
            'with the weight of "Default multiplier for extra networks"',
        ),
        "lycoris_report": _explained(
            info(REPORTS[0], "Under each picture, say", radio, {"choices": list(REPORTS)}),
            "which adapters were applied, to how many layers, and what could not be",
        ),
        "lycoris_parts": _explained(
            info(True, "Tags between two ANDs act on that part of the prompt alone", infotext=PARTS),
            "off: they act on the whole picture; a prompt without AND is not concerned",
        ),
        "lycoris_negative": _explained(
            info(False, "Tags in the negative prompt act on its side alone", infotext=NEGATIVE),
            "off: they are plain words there, as the web UI has it",
        ),
        "lycoris_cache_mb": _explained(
            info(1024, "Memory for adapters that were used (MB)", number, {"precision": 0}),
            "an adapter that is still in memory is not read again; counts after the next change of checkpoint",
        ),
        "lycoris_folders": _explained(
            info("", "More folders with adapters"),
            "separated by ; (models/LyCORIS and models/Lora are always looked into)",
        ),
        "lycoris_show_lora": _explained(
            info(True, "Show the files of the Lora folder in the LyCORIS tab as well"),
            "counts from the tab's next Refresh; the tags find them in any case",
        ),
        "lycoris_clip_folder": _explained(
            info("", CLIP_FOLDER),
            "openai/clip-vit-large-patch14 on this machine; empty: models/CLIP, or Hugging Face's cache. SD 1 needs it",
        ),
    }
    shared.options_templates.update(shared.options_section(_SECTION, options))


def handles_lora() -> bool:
    return bool(host.option("lycoris_handle_lora", True))


def handles(kind: str) -> bool:
    """Is a tag of this kind ours?"""
    return (
        handles_lora() if kind == "lora" else kind != "hypernet" or bool(host.option("lycoris_handle_hypernet", True))
    )


def parts_apart() -> bool:
    return bool(host.option("lycoris_parts", True))


def negative_tags() -> bool:
    return bool(host.option("lycoris_negative", False))


def default_adapters() -> list[tuple[str, str]]:
    """(kind, name) of what is added to every prompt: our setting, and the built-in's where we have its tag."""
    ours = [("lyco", str(host.option("lycoris_default", NOTHING)))]
    builtin = [("lora", str(host.option("sd_lora", NOTHING)))] if handles_lora() else []
    return [(kind, name) for kind, name in ours + builtin if name not in ("", NOTHING)]


def report_level() -> str:
    return str(host.option("lycoris_report", REPORTS[0]))


def cache_bytes() -> int:
    try:
        return max(0, int(host.option("lycoris_cache_mb", 1024))) << 20
    except (TypeError, ValueError):
        return 1 << 30


def folders() -> dict[str, list[Path]]:
    """Where to look, for each kind of tag the folder first that carries its name."""
    lyco = [own_folder(), *_flagged("lyco_dir"), *_flagged("lyco_dir_backcompat")]
    lora = _lora()
    more = [Path(text.strip()).expanduser() for text in str(host.option("lycoris_folders", "")).split(";")]
    extra = [path for path in more if path != Path()]
    return {"lyco": [*lyco, *extra, *lora], "lora": [*lora, *lyco, *extra]}


def shown() -> list[tuple[str, Path]]:
    """The folders of the tab, each with what it is called there."""
    all_of_them = folders()
    lora = set() if host.option("lycoris_show_lora", True) else set(_lora())
    nets = [hypernetwork_folder()] if handles("hypernet") else []
    others = [*nets, *(path for path in aesthetic_folders() if path.is_dir())]
    paths = [path for path in dict.fromkeys([*all_of_them["lyco"], *others]) if path not in lora]
    names = [path.name for path in paths]
    return [(path.name if names.count(path.name) == 1 else str(path), path) for path in paths]


def cache_folder() -> Path:
    """Where the host keeps what it can make again."""
    return Path(host.module("paths").data_path) / "cache" / "lycoris-bundle"


def preset_file() -> Path:
    """Beside the host's own styles and settings, where an update of the extension does not reach."""
    return Path(host.module("paths").data_path) / FILE


def foreign_presets() -> list[Source]:
    """Those of lora-block-weight where it is installed, whatever its folder is called."""
    folder = Path(host.module("paths").data_path) / "extensions"
    kinds = (("lbwpresets.txt", False), ("elempresets.txt", True))
    return [Source(path, elements) for name, elements in kinds for path in sorted(folder.glob(f"*/scripts/{name}"))]


def hypernetwork_folder() -> Path:
    return next(iter(_flagged("hypernetwork_dir")), _models() / "hypernetworks")


def aesthetic_folders() -> list[Path]:
    """Ours, and where the extension that had this before kept them."""
    old = Path(host.module("paths").data_path) / "extensions" / _OLD_EXTENSION / "aesthetic_embeddings"
    return [_models() / "aesthetic_embeddings", *([old] if old.is_dir() else [])]


def clip_folder() -> Path | None:
    """None where the user named none."""
    text = str(host.option("lycoris_clip_folder", "")).strip()
    return Path(text).expanduser() if text else None


def usual_clip_folder() -> Path:
    return _models() / "CLIP"


def own_folder() -> Path:
    return _models() / "LyCORIS"


def _lora() -> list[Path]:
    return _flagged("lora_dir") or [_models() / "Lora"]


def _models() -> Path:
    return Path(host.module("paths").models_path)


def _flagged(name: str) -> list[Path]:
    value = host.flag(name)
    return [Path(value)] if value else []


def _components() -> tuple[Any, Any, Any]:
    import gradio

    return gradio.Radio, partial(gradio.Dropdown, allow_custom_value=True), gradio.Number


def _explained(option: Any, text: str) -> Any:
    return option.info(text) if hasattr(option, "info") else option
