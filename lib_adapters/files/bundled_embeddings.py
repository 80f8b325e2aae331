"""Textual inversions packed into an adapter's file (`bundle_emb.<name>.<encoder>`, or a token like `<s1>`)."""

from __future__ import annotations

import re
from collections.abc import Iterable

_TOKEN = re.compile(r"(?:^|\.)<([^<>]+)>$")
_PREFIX = "bundle_emb."
_ENCODER_SUFFIXES = ("string_to_param.*", "clip_l", "clip_g", "clip_l_out", "clip_g_out", "t5", "t5_out")


def split_keys(keys: Iterable[str]) -> tuple[tuple[str, ...], list[str]]:
    """(names of the embeddings, all other keys). A name may hold dots itself."""
    names: dict[str, None] = {}
    others: list[str] = []
    for key in keys:
        token = _TOKEN.search(key) if key.endswith(">") else None
        if token is not None:  # cloneofsimo and ED-LoRA store one vector per token
            names[token[1]] = None
        elif key.startswith(_PREFIX):
            names[_name(key.removeprefix(_PREFIX))] = None
        else:
            others.append(key)
    return tuple(names), others


def _name(tail: str) -> str:
    for end in _ENCODER_SUFFIXES:
        if tail.endswith(f".{end}"):
            return tail.removesuffix(f".{end}")
    return tail.rpartition(".")[0] or tail
