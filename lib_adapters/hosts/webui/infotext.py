"""Adapters in the infotext of an image, and what pasting an infotext restores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lib_adapters.files.adapter import Adapter
from lib_adapters.files.container import SAFETENSORS_SUFFIXES
from lib_adapters.hosts.webui import processing, prompt_rows, settings, webui_modules
from lib_adapters.hosts.webui.name_resolver import NameResolver
from lib_adapters.library.file_names import escape_name
from lib_adapters.prompt.prompt_editing import AND
from lib_adapters.prompt.tags import Tag, opening_text, parse, quote_name

HASH_KEYS = {"lyco": "Lyco hashes", "lora": "Lora hashes"}
OLD_TIMELINES_KEY = "Old prompt editing timelines"  # the web UI's name for its option
_REMOVED = str.maketrans("", "", ":,")  # as the built-in writes names


def write_hashes(p: Any, hashed: Iterable[tuple[Tag, str]]) -> None:
    """`name: hash, ...` for each kind; the second pass adds to what the first one used."""
    parameters = getattr(p, "extra_generation_params", None)
    if parameters is None or not webui_modules.opt("lora_add_hashes_to_infotext", True):
        return
    found = [(tag.kind, tag.name.translate(_REMOVED), short) for tag, short in hashed if short]
    kinds = HASH_KEYS if settings.handles_lora() else {"lyco": HASH_KEYS["lyco"]}
    for kind, key in kinds.items():
        before = _read(parameters.get(key, "")) if getattr(p, "is_hr_pass", False) else {}
        pairs = before | {name: short for one, name, short in found if one == kind}
        if pairs:
            parameters[key] = ", ".join(f"{name}: {short}" for name, short in pairs.items())
        else:
            parameters.pop(key, None)


def write_settings(p: Any, kinds: Sequence[str]) -> None:
    """The settings without which the same text would give another picture; the host takes them back on pasting."""
    parameters = getattr(p, "extra_generation_params", None)
    if parameters is None or getattr(p, "is_hr_pass", False):
        return
    prompts, negatives = processing.batch_prompts_and_negatives(p, False)
    joined = any(AND.search(prompt) and parse(prompt, kinds).tags for prompt in prompts)
    against = any(parse(text, kinds).text != text for text in negatives)  # even a tag that cannot be read is no words
    for key in (settings.SUBPROMPTS_KEY, settings.NEGATIVE_TAGS_KEY):
        parameters.pop(key, None)
    edited = any(tag.edits for text in _texts(p) for tag in parse(text, kinds).tags)
    if edited and settings.uses_old_scheduling():
        parameters[OLD_TIMELINES_KEY] = True  # the web UI writes it only if words depend on it
    if joined and not settings.subprompts_are_separate():
        parameters[settings.SUBPROMPTS_KEY] = False
    if against and settings.negative_tags_enabled():
        parameters[settings.NEGATIVE_TAGS_KEY] = True


def _texts(p: Any) -> list[str]:
    """Return all prompts of the batch whose tags are applied."""
    return [
        text for second in (False, True) for side in processing.batch_prompts_and_negatives(p, second) for text in side
    ]


def default_tags(p: Any, kinds: Sequence[str], tag_names: Mapping[str, set[str]]) -> list[Tag]:
    """The adapters of the settings that the prompt does not name itself; none for a call without a picture."""
    if getattr(p, "all_prompts", None) is None:
        return []
    weight = webui_modules.opt("extra_networks_default_multiplier", 1.0)
    chosen = [(kind, name) for kind, name in settings.default_adapters() if kind in kinds]
    texts = [
        f"<{kind}:{quote_name(escape_name(name))}:{weight}>"
        for kind, name in chosen
        if not any(name in names for names in tag_names.values())
    ]
    return list(parse("".join(texts), kinds).tags)


def add_to_prompts(p: Any, tags: Iterable[Tag], sampled_texts: Mapping[str, str]) -> None:
    """So that a picture's text has the default adapters, as the built-in does, and what chance chose for its batch."""
    for tag in () if getattr(p, "is_hr_pass", False) else tags:
        p.all_prompts = [prompt_rows.with_tag(prompt, tag, tuple(HASH_KEYS)) for prompt in p.all_prompts]
    some = processing.batch_slice(p)
    for name in ("all_prompts", "all_hr_prompts", "all_negative_prompts", "all_hr_negative_prompts"):
        prompts = getattr(p, name, None)
        if sampled_texts and prompts:
            pinned = [_pinned(prompt, sampled_texts) for prompt in prompts[some]]
            setattr(p, name, [*prompts[: some.start], *pinned, *prompts[some.stop :]])


def _pinned(prompt: str, drawn: Mapping[str, str]) -> str:
    for text, written in drawn.items():
        prompt = prompt.replace(text, written)
    return prompt


def resolve_pasted_names(parameters: dict[str, Any], resolver: NameResolver[Any], hashes: AdapterHashes) -> None:
    """Replace the name of a missing file by that of the only readable file with its hash.

    If several files have the name, the hash selects one of them.
    """
    fields = ("Prompt", "Hires prompt")
    for field in (*fields, "Negative prompt", "Hires negative prompt") if settings.negative_tags_enabled() else fields:
        if field in parameters:
            parameters[field] = _found(str(parameters[field]), parameters, resolver, hashes)


def _found(prompt: str, parameters: Mapping[str, Any], names: NameResolver[Any], hashes: AdapterHashes) -> str:
    for tag in reversed(parse(prompt, tuple(HASH_KEYS) if settings.handles_lora() else ("lyco",)).tags):
        short = _read(str(parameters.get(HASH_KEYS[tag.kind], ""))).get(tag.name.translate(_REMOVED).strip(), "")
        there = [path for path in names.candidates(tag.kind, tag.name) if names.is_readable(path)]
        path = hashes.select_file(short, there) if there[1:] else None if there else hashes.find_file(short)
        if path is not None:
            start, end = tag.span
            prompt = prompt[:start] + _renamed(tag, names.shortest_name(path)) + prompt[end:]
    return prompt


def _renamed(tag: Tag, name: str) -> str:
    """The tag as written, but for its name."""
    return f"<{tag.kind}:{quote_name(name)}{tag.text[len(opening_text(tag)) :]}"


def _read(text: str) -> dict[str, str]:
    pairs = (pair.rpartition(":") for pair in text.split(","))
    return {name.strip(): value.strip() for name, _, value in pairs if name.strip()}


# Short hashes of adapter files as the host writes them: made when first needed, kept in the host's own cache.


HASH_LENGTH = 12
EMPTY_FILE_HASH = "e3b0c44298fc"  # the hash of no bytes: what a failed run of some tool leaves in many files


class AdapterHashes:
    def __init__(self, resolver: NameResolver[Any]) -> None:
        self._resolver = resolver

    def short_hash(self, adapter: Adapter) -> str:
        """As the built-in: the trainer's own (`sshs_model_hash`), else of the tensor data; "" where hashing is off."""
        known = adapter.metadata.get("sshs_model_hash") or self._host_hash(adapter.path)
        return (known or "")[:HASH_LENGTH]

    def find_file(self, short: str) -> Path | None:
        """Return the only readable file with this hash among those whose hash is known without reading the file.

        Files are opened as a check, because a truncated copy still has the trainer's hash in its header.
        """
        if short == EMPTY_FILE_HASH or not short:
            return None
        found = [
            path
            for path in self._resolver.files()
            if short in self._known_hashes(path) and self._resolver.is_readable(path)
        ]
        return found[0] if len(found) == 1 else None

    def select_file(self, short: str, paths: Sequence[Path]) -> Path | None:
        """Return the first of these files with this hash; compute unknown hashes, since there are only a few files."""
        if short == EMPTY_FILE_HASH or not short:
            return None
        known = [path for path in paths if short in self._known_hashes(path)]
        return next((path for path in known or paths if known or self._computed_hash(path) == short), None)

    def _known_hashes(self, path: Path) -> Iterable[str]:
        stored = self._resolver.file_info(path).hash
        return {text[:HASH_LENGTH] for text in (stored, self._cached_hash(path)) if text}

    def _computed_hash(self, path: Path) -> str:
        return "" if self._resolver.file_info(path).hash else (self._host_hash(path) or "")[:HASH_LENGTH]

    def _host_hash(self, path: Path) -> str | None:
        made: str | None = webui_modules.import_module("hashes").sha256(
            str(path), _title(path), use_addnet_hash=_is_safetensors(path)
        )
        return made

    def _cached_hash(self, path: Path) -> str:
        cached = getattr(webui_modules.import_module("hashes"), "sha256_from_cache", None)
        found = cached(str(path), _title(path), use_addnet_hash=_is_safetensors(path)) if cached else None
        return found or ""


def _title(path: Path) -> str:
    """By path: the host's convention, the bare name, gives one entry to two files of one name."""
    return f"lycoris/{path.as_posix()}"


def _is_safetensors(path: Path) -> bool:
    return path.suffix.lower() in SAFETENSORS_SUFFIXES
