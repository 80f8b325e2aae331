"""Reads tags and prompts from the web UI's `StableDiffusionProcessing`.

The host calls each registered network by itself, one after the other. Which adapters are wanted as a whole is in the
data that it holds for the picture; the call's own parameters tell which data that is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lib_adapters.prompt import tags as grammar
from lib_adapters.prompt.tags import ParsedPrompt, Tag, parse

CACHE_KEY = "lycoris-state"  # an entry of ours in the host's data: what the conditioning also depends on
ADAPTER_KINDS = ("lyco", "lora")
NetworkData = dict[str, list[Any]]


def network_data_for(p: Any, kind: str, params: Sequence[Any], last: NetworkData | None = None) -> NetworkData | None:
    """The data of `p` that this call is for; None for a call with nothing behind it (a model being loaded).

    Where both passes' could be meant it goes on with `last`: the host calls for all kinds, one after the other.
    """
    found = [data for data in all_network_data(p) if _bare(data.get(kind, [])) == _bare(params)]
    same = [data for data in found if data is last and not getattr(p, "is_hr_pass", False)]
    return next(iter(same or found), None)


def all_network_data(p: Any) -> list[NetworkData]:
    """What `p` holds for its first and second pass, the present one first."""
    names = ("extra_network_data", "hr_extra_network_data")
    order = names[::-1] if getattr(p, "is_hr_pass", False) else names
    return [data for name in order if isinstance(data := getattr(p, name, None), dict)]


def parse_params(kind: str, params: Sequence[Any]) -> ParsedPrompt:
    """The tags as they stood in the prompt, read by the one grammar."""
    return parse(tag_text(kind, params), (kind,))


def tag_text(kind: str, params: Sequence[Any]) -> str:
    return "".join(f"<{kind}:{':'.join(one.items)}>" for one in params if not is_cache_key(one))


def _bare(params: Sequence[Any]) -> list[int]:
    """The very objects, without the mark: the host hands over a copy of its list."""
    return [id(one) for one in params if not is_cache_key(one)]


def is_cache_key(params: Any) -> bool:
    return bool(params.items) and params.items[0] == CACHE_KEY


def has_cache_key(data: NetworkData, kind: str = "lyco") -> bool:
    return any(is_cache_key(one) for one in data.get(kind, []))


def set_cache_key(data: NetworkData, state: str, create_params: Callable[[list[str]], Any], kind: str = "lyco") -> None:
    """Let the host's key for conditionings change with `state`; the same state changes nothing."""
    held = [one for one in data.get(kind, []) if is_cache_key(one)]
    if [one.items for one in held] == ([[CACHE_KEY, state]] if state else []):
        return
    kept = [one for one in data.get(kind, []) if not is_cache_key(one)]
    data[kind] = kept + ([create_params([CACHE_KEY, state])] if state else [])


def prompts_differ(p: Any, kinds: Sequence[str]) -> bool:
    """Do the prompts of this batch name different adapters? The host reads only the first one's tags."""
    return len({tuple(tag.identity for tag in parse(text, kinds).tags) for text in batch_prompts(p)}) > 1


def batch_prompts(p: Any) -> list[str]:
    """The prompts of the present batch as they were written, in the first pass."""
    prompts = getattr(p, "all_prompts", None)
    return [] if not prompts or getattr(p, "is_hr_pass", False) else list(prompts[batch_slice(p)])


def batch_prompts_and_negatives(p: Any, hires: bool) -> tuple[list[str], list[str]]:
    """Prompts and negative prompts of the present batch as they were written, tags and all."""
    names = ("all_hr_prompts", "all_hr_negative_prompts") if hires else ("all_prompts", "all_negative_prompts")
    prompts, negatives = (list(getattr(p, name, None) or ())[batch_slice(p)] for name in names)
    return prompts, negatives


def batch_slice(p: Any) -> slice:
    """Where the present batch is among all pictures of the job."""
    size = getattr(p, "batch_size", 1)
    start = getattr(p, "iteration", 0) * size
    return slice(start, start + size)


def negative_tag_texts(p: Any, kinds: Sequence[str]) -> list[str]:
    """Tags in the negative prompt: the host leaves them there as plain words."""
    prompts = getattr(p, "negative_prompts", None) or ()
    return [tag.text for text in prompts[:1] for tag in parse(text, kinds).tags]


def unsupported_editing(p: Any, kind: str, type_label: str) -> list[str]:
    """Return messages about tags of this kind in prompt editing; the web UI passes only those of the first prompt."""
    prompts = batch_prompts_and_negatives(p, bool(getattr(p, "is_hr_pass", False)))[0]
    return [one for text in prompts[:1] for one in grammar.unapplied_tag_messages(text, kind, type_label)]


def tag_names(tags: Sequence[Tag]) -> Mapping[str, set[str]]:
    return {kind: {tag.name for tag in tags if tag.kind == kind} for kind in ADAPTER_KINDS}
