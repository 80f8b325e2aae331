"""What the user has chosen on the settings page (options.py) and on the command line, and which folders that means."""

from __future__ import annotations

from pathlib import Path

from lib_adapters.catalogue.presets import FILE, Source
from lib_adapters.files.cache import DEFAULT_BYTES
from lib_adapters.hosts.webui import host

NOTHING = "None"
CACHE_MB = DEFAULT_BYTES >> 20
PARTS, NEGATIVE = "Lyco AND parts", "Lyco negative tags"  # in a picture's text, where they made a difference
REPORTS = ("everything", "problems only", "nothing")
CLIP_FOLDER = "CLIP folder for aesthetic gradients"
_OLD_EXTENSION = "stable-diffusion-webui-aesthetic-gradients"


def handles_lora() -> bool:
    return bool(host.option("lycoris_handle_lora", True))


def handles(kind: str) -> bool:
    """Is a tag of this kind ours?"""
    return (
        handles_lora() if kind == "lora" else kind != "hypernet" or bool(host.option("lycoris_handle_hypernet", True))
    )


def parts_apart() -> bool:
    return bool(host.option("lycoris_parts", True))


def old_timelines() -> bool:
    """True if the web UI's option is set to count prompt editing steps as before version 1.6."""
    return bool(host.option("use_old_scheduling", False))


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
        return max(0, int(host.option("lycoris_cache_mb", CACHE_MB))) << 20
    except (TypeError, ValueError):
        return DEFAULT_BYTES


def folders() -> dict[str, list[Path]]:
    """Where to look, for each kind of tag the folder first that carries its name."""
    lyco = [own_folder(), *_flagged("lyco_dir"), *_flagged("lyco_dir_backcompat")]
    lora = _lora()
    more = [Path(text.strip()).expanduser() for text in str(host.option("lycoris_folders", "")).split(";")]
    extra = [path for path in more if path != Path()]
    return {"lyco": [*lyco, *extra, *lora], "lora": [*lora, *lyco, *extra]}


def taken_first() -> list[Path]:
    """Return the built-in Lora's folders, the one whose files it prefers first."""
    return [*(_flagged("lyco_dir_backcompat") or [own_folder()]), *_lora()]


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
    """Return the folder or file set by the user; None if unset."""
    text = str(host.option("lycoris_clip_folder", "")).strip()
    return Path(text).expanduser() if text else None


def clip_models() -> list[Path]:
    """Return the folder of the interrogator's CLIP models, if the command line sets one."""
    return _flagged("clip_models_path")


def checkpoint_folders() -> list[Path]:
    return [*_flagged("ckpt_dir"), _models() / "Stable-diffusion"]


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
