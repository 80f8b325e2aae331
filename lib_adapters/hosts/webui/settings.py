"""Settings of the extension on the web UI's settings page and on its command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lib_adapters.files.cache import DEFAULT_CACHE_BYTES
from lib_adapters.hosts.webui import webui_modules
from lib_adapters.library.preset_file import PRESET_FILE_NAME, PresetSource

NONE_CHOICE = "None"
DEFAULT_CACHE_MB = DEFAULT_CACHE_BYTES >> 20
SUBPROMPTS_KEY, NEGATIVE_TAGS_KEY = (
    "Lyco AND parts",
    "Lyco negative tags",
)  # in a picture's text, where they made a difference
REPORT_LEVELS = ("everything", "problems only", "nothing")
CLIP_FOLDER_LABEL = "CLIP folder for aesthetic gradients"
_OLD_EXTENSION = "stable-diffusion-webui-aesthetic-gradients"


def handles_lora() -> bool:
    return bool(webui_modules.opt("lycoris_handle_lora", True))


def handles_tag(kind: str) -> bool:
    """Is a tag of this kind ours?"""
    return (
        handles_lora()
        if kind == "lora"
        else kind != "hypernet" or bool(webui_modules.opt("lycoris_handle_hypernet", True))
    )


def subprompts_are_separate() -> bool:
    return bool(webui_modules.opt("lycoris_parts", True))


def uses_old_scheduling() -> bool:
    """True if the web UI's option is set to count prompt editing steps as before version 1.6."""
    return bool(webui_modules.opt("use_old_scheduling", False))


def negative_tags_enabled() -> bool:
    return bool(webui_modules.opt("lycoris_negative", False))


def default_adapters() -> list[tuple[str, str]]:
    """(kind, name) of what is added to every prompt: our setting, and the built-in's where we have its tag."""
    ours = [("lyco", str(webui_modules.opt("lycoris_default", NONE_CHOICE)))]
    builtin = [("lora", str(webui_modules.opt("sd_lora", NONE_CHOICE)))] if handles_lora() else []
    return [(kind, name) for kind, name in ours + builtin if name not in ("", NONE_CHOICE)]


def report_level() -> str:
    return str(webui_modules.opt("lycoris_report", REPORT_LEVELS[0]))


def cache_bytes() -> int:
    try:
        return max(0, int(webui_modules.opt("lycoris_cache_mb", DEFAULT_CACHE_MB))) << 20
    except (TypeError, ValueError):
        return DEFAULT_CACHE_BYTES


def adapter_folders() -> dict[str, list[Path]]:
    """Where to look, for each kind of tag the folder first that carries its name."""
    lyco = [lycoris_folder(), *_flagged("lyco_dir"), *_flagged("lyco_dir_backcompat")]
    lora = _lora()
    more = [Path(text.strip()).expanduser() for text in str(webui_modules.opt("lycoris_folders", "")).split(";")]
    extra = [path for path in more if path != Path()]
    return {"lyco": [*lyco, *extra, *lora], "lora": [*lora, *lyco, *extra]}


def preferred_folders() -> list[Path]:
    """Return the built-in Lora's folders, the one whose files it prefers first."""
    return [*(_flagged("lyco_dir_backcompat") or [lycoris_folder()]), *_lora()]


def tab_folders() -> list[tuple[str, Path]]:
    """The folders of the tab, each with what it is called there."""
    all_of_them = adapter_folders()
    lora = set() if webui_modules.opt("lycoris_show_lora", True) else set(_lora())
    nets = [hypernetwork_folder()] if handles_tag("hypernet") else []
    others = [*nets, *(path for path in aesthetic_folders() if path.is_dir())]
    paths = [path for path in dict.fromkeys([*all_of_them["lyco"], *others]) if path not in lora]
    names = [path.name for path in paths]
    return [(path.name if names.count(path.name) == 1 else str(path), path) for path in paths]


def cache_folder() -> Path:
    """Where the host keeps what it can make again."""
    return Path(webui_modules.import_module("paths").data_path) / "cache" / "lycoris-bundle"


def preset_file() -> Path:
    """Beside the host's own styles and settings, where an update of the extension does not reach."""
    return Path(webui_modules.import_module("paths").data_path) / PRESET_FILE_NAME


def installed_preset_files() -> list[PresetSource]:
    """Those of lora-block-weight where it is installed, whatever its folder is called."""
    folder = Path(webui_modules.import_module("paths").data_path) / "extensions"
    kinds = (("lbwpresets.txt", False), ("elempresets.txt", True))
    return [
        PresetSource(path, elements) for name, elements in kinds for path in sorted(folder.glob(f"*/scripts/{name}"))
    ]


def hypernetwork_folder() -> Path:
    return next(iter(_flagged("hypernetwork_dir")), _models() / "hypernetworks")


def aesthetic_folders() -> list[Path]:
    """Ours, and where the extension that had this before kept them."""
    old = Path(webui_modules.import_module("paths").data_path) / "extensions" / _OLD_EXTENSION / "aesthetic_embeddings"
    return [_models() / "aesthetic_embeddings", *([old] if old.is_dir() else [])]


def clip_folder() -> Path | None:
    """Return the folder or file set by the user; None if unset."""
    text = str(webui_modules.opt("lycoris_clip_folder", "")).strip()
    return Path(text).expanduser() if text else None


def interrogator_clip_folders() -> list[Path]:
    """Return the folder of the interrogator's CLIP models, if the command line sets one."""
    return _flagged("clip_models_path")


def checkpoint_folders() -> list[Path]:
    return [*_flagged("ckpt_dir"), _models() / "Stable-diffusion"]


def default_clip_folder() -> Path:
    return _models() / "CLIP"


def lycoris_folder() -> Path:
    return _models() / "LyCORIS"


def _lora() -> list[Path]:
    return _flagged("lora_dir") or [_models() / "Lora"]


def _models() -> Path:
    return Path(webui_modules.import_module("paths").models_path)


def _flagged(name: str) -> list[Path]:
    value = webui_modules.cmd_flag(name)
    return [Path(value)] if value else []


# The section `LyCORIS` of the settings page. What the options mean is read in settings.py.


MAX_CHOICES = 500
_SECTION = ("lycoris", "LyCORIS")


def register_options(adapter_names: Callable[[], Sequence[str]], rescan: Callable[[], None]) -> None:
    """Add our options to the host's; `names` is called when the page is built."""
    shared = webui_modules.import_module("shared")

    def choices() -> dict[str, Any]:
        """All of ten thousand names would be sent with every page; others can be typed. The host also puts this into
        an update of the component, and that knows no more than choices."""
        return {"choices": [NONE_CHOICE, *adapter_names()[:MAX_CHOICES]]}

    options = _tags(shared.OptionInfo, choices, rescan) | _places(shared.OptionInfo)
    shared.options_templates.update(shared.options_section(_SECTION, options))


def _tags(info: Any, choices: Callable[[], dict[str, Any]], rescan: Callable[[], None]) -> dict[str, Any]:
    radio, dropdown, _ = _components()
    return {
        "lycoris_handle_lora": _explained(
            info(True, "Handle <lora:...> as well"),
            "every kind of adapter in either tag; off: <lora:...> stays with the built-in Lora",
        ),
        "lycoris_handle_hypernet": _explained(
            info(True, "Handle <hypernet:...> as well"),
            "only on the kind of model a file was made for, and with a line under the picture; off: as ever",
        ),
        "lycoris_default": _explained(
            info(NONE_CHOICE, "Add adapter to every prompt", dropdown, choices, refresh=rescan),
            'with the weight of "Default multiplier for extra networks"',
        ),
        "lycoris_report": _explained(
            info(REPORT_LEVELS[0], "Under each picture, say", radio, {"choices": list(REPORT_LEVELS)}),
            "which adapters were applied, to how many layers, and what could not be",
        ),
        "lycoris_parts": _explained(
            info(True, "Tags between two ANDs act on that part of the prompt alone", infotext=SUBPROMPTS_KEY),
            "off: they act on the whole picture; a prompt without AND is not concerned",
        ),
        "lycoris_negative": _explained(
            info(False, "Tags in the negative prompt act on its side alone", infotext=NEGATIVE_TAGS_KEY),
            "off: they are plain words there, as the web UI has it",
        ),
    }


def _places(info: Any) -> dict[str, Any]:
    *_, number = _components()
    return {
        "lycoris_cache_mb": _explained(
            info(DEFAULT_CACHE_MB, "Memory for adapters that were used (MB)", number, {"precision": 0}),
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
            info("", CLIP_FOLDER_LABEL),
            "openai/clip-vit-large-patch14 on this machine. If empty, models/CLIP and the caches of Hugging Face and "
            "clip are searched. SD 1 needs it",
        ),
    }


def _components() -> tuple[Any, Any, Any]:
    import gradio

    return gradio.Radio, partial(gradio.Dropdown, allow_custom_value=True), gradio.Number


def _explained(option: Any, text: str) -> Any:
    return option.info(text) if hasattr(option, "info") else option
