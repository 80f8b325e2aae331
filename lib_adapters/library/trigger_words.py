"""Trigger words and training tags from every source that sites and trainers write."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from lib_adapters.library.companions import CIVITAI, Companions

MAX_WORDS = 50
MAX_WORD = 2000
MAX_TABLE = 20_000_000  # letters of JSON; a real one has thousands
MAX_DEPTH = 4  # folder -> tag -> count, and what newer trainers put above it

Sources = dict[str, list[str]]


def trigger_words(near: Companions, sidecar: Mapping[str, Any], metadata: Mapping[str, str]) -> Sources:
    """The words that each source names, the most trusted source first; sources without any are left out."""
    found = {
        "sidecar": split_words(sidecar.get("activation text")),
        "civitai": civitai_words(near),
        "modelspec": split_words(metadata.get("modelspec.trigger_phrase"))
        or split_words(metadata.get("ssmd_keywords")),
    }
    return {source: words for source, words in found.items() if words}


def civitai_words(near: Companions) -> list[str]:
    """`trainedWords` as Civitai's API has it; Stability Matrix writes the same in its own spelling."""
    for suffix in CIVITAI:
        table = near.read_json(suffix)
        if words := split_words(table.get("trainedWords", table.get("TrainedWords"))):
            return words
    return []


def split_words(value: object) -> list[str]:
    """A text or a list of texts as what one click inserts each: trimmed, each once."""
    texts = value if isinstance(value, list) else [value]
    parts = (part.strip(" \t,") for text in texts if isinstance(text, str) for part in text.splitlines())
    return [part[:MAX_WORD] for part in dict.fromkeys(parts) if part][:MAX_WORDS]


def training_tags(metadata: Mapping[str, str]) -> list[tuple[str, int]]:
    """`ss_tag_frequency` over all of a trainer's folders, the commonest first."""
    text = metadata.get("ss_tag_frequency", "")
    try:
        table = json.loads(text) if 2 < len(text) < MAX_TABLE else {}
    except (ValueError, RecursionError):
        return []
    counts: Counter[str] = Counter()
    for tag, count in _counts(table, MAX_DEPTH):
        counts[tag] += count
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def _counts(table: object, depth: int) -> Iterable[tuple[str, int]]:
    for name, value in table.items() if isinstance(table, dict) else ():
        if isinstance(value, dict):
            yield from _counts(value, depth - 1) if depth else ()
        elif (tag := name.strip()) and _is_count(value):
            yield tag, int(value)


def _is_count(value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 < value < 1e12 and math.isfinite(value)  # type: ignore[operator, arg-type]
