"""Keys -> modules: what one file does to one layer, and which algorithm says so. Shapes only; no tensor is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lib_adapters.algorithms import choose
from lib_adapters.algorithms.base import Algorithm, Shape
from lib_adapters.errors import UnknownAlgorithm
from lib_adapters.files import combine
from lib_adapters.files.dialects import stem_of
from lib_adapters.files.entries import Entry, Source, torch_dtype
from lib_adapters.files.names import Stem, split_key

SCALARS = frozenset({"alpha", "scale", "scalar", "on_input", "lora2_nu", "bias_size"})

_ALTERNATIVES = (
    ("lora_up.weight", "lora_down.weight"),
    ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    ("lokr_w1_a", "lokr_w1_b"),
    ("lokr_w2_a", "lokr_w2_b"),
    ("a1.weight", "a2.weight", "b1.weight", "b2.weight"),
    ("q_layer.weight", "p_layer.weight", "lambda_layer"),
    ("lora_up1.weight", "lora_down1.weight", "lora_up2.weight", "lora_down2.weight"),
    ("S_p", "S_q", "P_basis", "Q_basis", "lambda_layer"),
)
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


def group(keys: list[str]) -> Groups:
    modules: dict[str, dict[str, str]] = {}
    strangers: list[str] = []
    twice: list[str] = []
    for key in keys:
        split = split_key(key)
        if split is None:
            strangers.append(key)
            continue
        leaves = modules.setdefault(split[0], {})
        if leaves.setdefault(split[1], key) != key:
            twice.append(key)
    notes = [f"{key} repeats a tensor under another spelling and is not used" for key in twice]
    return Groups(modules, strangers, notes)


class Builder:
    """Turns groups into modules; whatever cannot be used is told, not raised."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._chosen: dict[tuple[tuple[str, Shape], ...], type[Algorithm] | str] = {}
        self.modules: dict[Stem, Module] = {}
        self.unusable: list[tuple[str, str]] = []
        self.notes: list[str] = []
        self._orphans = 0

    def add(self, name: str, leaves: dict[str, str], constants: Mapping[str, float]) -> None:
        stem = stem_of(name)
        if not leaves.keys() - _FOLLOWERS:
            self._orphans += 1
            return
        if stem in self.modules:
            self.notes.append(f"{name} and {self.modules[stem].name} mean the same layer; only the latter is used")
            return
        shapes = combine.combined(self._shapes(leaves)) | {leaf: () for leaf in constants}
        chosen = self._broken(leaves, shapes) or self._choose(shapes)
        if isinstance(chosen, str):
            self.unusable.append((name, chosen))
        else:
            self.modules[stem] = Module(stem, name, chosen, leaves, shapes, constants)

    def finish(self) -> None:
        if self._orphans:
            self.notes.append(f"{self._orphans} modules hold only alpha or magnitude and no factors; they do nothing")

    def _shapes(self, leaves: dict[str, str]) -> dict[str, Shape]:
        entries = self._source.entries
        return {leaf: entries[key].shape if key in entries else () for leaf, key in leaves.items()}

    def _broken(self, leaves: dict[str, str], shapes: Mapping[str, Shape]) -> str | None:
        """A reason that holds whatever the algorithm is."""
        for leaf, key in leaves.items():
            problem = _bad_tensor(leaf, self._source.entries.get(key))
            if problem:
                return problem
        return missing_half(shapes)

    def _choose(self, shapes: dict[str, Shape]) -> type[Algorithm] | str:
        """Hundreds of layers share a handful of shapes; each is judged once."""
        key = tuple(sorted(shapes.items()))
        if key not in self._chosen:
            try:
                self._chosen[key] = choose(shapes)
            except UnknownAlgorithm as error:
                self._chosen[key] = str(error)
        return self._chosen[key]


def _bad_tensor(leaf: str, entry: Entry | None) -> str | None:
    if entry is None:
        return None
    if torch_dtype(entry.dtype) is None:
        return f"{leaf} is stored as {entry.dtype}, which torch cannot compute with"
    if entry.start == entry.end:
        return f"{leaf} is empty (rank 0)"
    if leaf in SCALARS and any(axis != 1 for axis in entry.shape):
        return f"{leaf} should be one number, not {list(entry.shape)}"
    return None


def missing_half(leaves: Mapping[str, Shape]) -> str | None:
    """Factors come in pairs; half a pair is a damaged module."""
    for needed in _ALTERNATIVES:
        there = [leaf for leaf in needed if leaf in leaves]
        if needed[0] == "q_layer.weight" and "S_p" in leaves:
            continue
        if there and len(there) < len(needed) and there != ["lambda_layer"]:
            lost = ", ".join(leaf for leaf in needed if leaf not in leaves)
            return f"{', '.join(there)} without {lost}: the module is damaged"
    return None
