"""Which text encoder a file means, once its family is known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lib_adapters.files.modules import Module
from lib_adapters.files.names import Stem
from lib_adapters.files.widths import input_width

_SEVERAL = frozenset({"sdxl", "sd3", "flux"})  # families with more than one text encoder
_WIDE = 1280  # CLIP-G


def resolve_text_encoders(modules: Iterable[Module], family: str) -> tuple[tuple[Module, ...], list[str]]:
    """`text_encoder.` and `lora_te_` in a file for several encoders mean the first, or the one that is as wide."""
    if family not in _SEVERAL:
        return tuple(modules), []
    listed = list(modules)
    wide = any(m.stem.part == "te" and input_width(m.shapes) == _WIDE and "_q_proj" in m.stem.name for m in listed)
    taken: dict[Stem, Module] = {}
    clashes: list[str] = []
    for module in listed:
        stem = module.stem
        if stem.part == "te":
            stem = Stem("te2" if wide else "te1", stem.name)
        if stem in taken:
            clashes.append(f"{module.name} and {taken[stem].name} mean the same layer; only the latter is used")
        else:
            taken[stem] = module if stem == module.stem else replace(module, stem=stem)
    return tuple(taken.values()), clashes
