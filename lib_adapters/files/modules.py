"""Keys -> modules: what one file does to one layer, and which algorithm says so. Shapes only; no tensor is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lib_adapters.algorithms.base import Algorithm, Shape
from lib_adapters.files import peft_seeded
from lib_adapters.files.dialects import stem_of
from lib_adapters.files.entries import Source
from lib_adapters.files.judge import SCALARS, Judge
from lib_adapters.files.names import Stem, split_key

_FOLLOWERS = SCALARS | {"dora_scale", "rescale", "bias", "lora_up.bias", "lora_down.bias", "oft_R.scaled_oft"}


@dataclass(frozen=True)
class Module:
    """One layer's worth of a file."""

    stem: Stem
    name: str  # as written in the file
    algorithm: type[Algorithm]
    leaves: Mapping[str, str]  # canonical leaf -> key in the file
    shapes: Mapping[str, Shape]
    constants: Mapping[str, float] = field(default_factory=dict)  # leaves that a config beside the tensors holds


@dataclass
class Groups:
    """Keys sorted by module, before anybody asks what they are."""

    modules: dict[str, dict[str, str]]  # module as written -> leaf -> key
    strangers: list[str]  # keys that no spelling fits
    notes: list[str]


def group(keys: Iterable[str]) -> Groups:
    """By module; of two spellings of one tensor the first is taken."""
    groups = Groups({}, [], [])
    for key in keys:
        split = split_key(key)
        if split is None:
            groups.strangers.append(key)
            continue
        leaves = groups.modules.setdefault(split[0], {})
        if leaves.setdefault(split[1], key) != key:
            groups.notes.append(f"{key} repeats a tensor under another spelling and is not used")
    peft_seeded.share(groups.modules)
    return groups


class Builder:
    """Turns groups into modules; whatever cannot be used is told, not raised."""

    def __init__(self, source: Source) -> None:
        self._entries = source.entries
        self._judge = Judge()
        self.modules: dict[Stem, Module] = {}
        self.unusable: list[tuple[str, str]] = []
        self.notes: list[str] = []
        self._orphans = 0

    def add(self, name: str, leaves: dict[str, str], constants: Mapping[str, float]) -> None:
        """One module with its leaves (leaf -> key) and constants (leaf -> number)."""
        if leaves.keys() <= _FOLLOWERS:
            self._orphans += 1
            return
        stem = stem_of(name)
        if stem in self.modules:
            self.notes.append(f"{name} and {self.modules[stem].name} mean the same layer; only the latter is used")
            return
        tensors = {leaf: self._entries.get(key) for leaf, key in leaves.items()} | dict.fromkeys(constants)
        verdict = self._judge.verdict(tensors)
        if verdict.algorithm is None:
            self.unusable.append((name, verdict.reason))
        else:
            self.modules[stem] = Module(stem, name, verdict.algorithm, leaves, verdict.shapes, constants)

    def finish(self) -> None:
        """Behind the last one: tells of modules that had no factors."""
        if self._orphans:
            self.notes.append(f"{self._orphans} modules hold only alpha or magnitude and no factors; they do nothing")
