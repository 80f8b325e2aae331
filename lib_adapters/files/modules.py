"""Keys -> modules: what one file does to one layer, and which algorithm says so. Shapes only; no tensor is read."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from lib_adapters.algorithms.base import Algorithm, Shape
from lib_adapters.files import foreign, peft_seeded, report
from lib_adapters.files.dialects import is_prefixed, stem_of
from lib_adapters.files.entries import Entry, Source
from lib_adapters.files.judge import SCALARS, Judge
from lib_adapters.files.names import SAVED, Stem, split_key
from lib_adapters.files.quantised import scales_of

_FOLLOWERS = SCALARS | {"dora_scale", "rescale", "bias", "lora_up.bias", "lora_down.bias", "oft_R.scaled_oft"}
_WHOLE = frozenset({"weight", "bias"})  # names of a model's own parameters

# Training leaves these in a file, and no result depends on them: activation scales of 8-bit layers, MonteCLoRA's noise,
# the second adapter (`default_1`) that PEFT saves with the first when training was resumed, and the layers as they were
# before training (`original_module`) in a file of the whole PeftModel.
_LEFTOVERS = ("scaled_fp8", ".input_scale", ".scale_input", ".num_batches_tracked")
_NOISE, _BEFORE = ".lora_monteclora_sampler.", ".original_module."
_SECOND_ADAPTER = re.compile(r"^\.lora_([AB])(?:\.default)?_(\d{1,4})\.weight$")
_REPEATED = "repeats a tensor under another name, or belongs to another adapter in the file, and is not used"
_SECOND = "belongs to a second adapter in the same file, which is not used"
_MAX_DOTS = 8  # levels of a key that are searched for its layer


@dataclass(frozen=True)
class Module:
    """One layer's worth of a file."""

    stem: Stem
    name: str  # as written in the file
    algorithm: type[Algorithm]
    leaves: Mapping[str, str]  # canonical leaf -> key in the file
    shapes: Mapping[str, Shape]
    constants: Mapping[str, float] = field(default_factory=dict)  # leaves that a config beside the tensors holds
    scales: Mapping[str, str] = field(default_factory=dict)  # tensor name of a quantised tensor -> key of its scale


@dataclass
class Groups:
    """Keys sorted by module, before anybody asks what they are."""

    modules: dict[str, dict[str, str]]  # module as written -> leaf -> key
    strangers: list[str]  # keys of no known format that belong to no layer of the file
    notes: list[str]
    scales: dict[str, str] = field(default_factory=dict)  # key of a quantised tensor -> key of its scale
    unknown: dict[str, list[str]] = field(default_factory=dict)  # module -> keys of its tensors of no known format

    @property
    def holds_base(self) -> bool:
        """True for a whole model with its adapter (`PeftModel.state_dict()`): most of its weights were not trained."""
        return any(name.endswith(".base_layer") and "weight" in leaves for name, leaves in self.modules.items())

    @property
    def has_factors(self) -> bool:
        """False for a file with whole weights only, which is a model and not an adapter."""
        return any(not _is_generic(leaves) for leaves in self.modules.values())

    def in_order(self) -> list[tuple[str, dict[str, str]]]:
        """Return the modules with factors first, because the first of two names of a layer is used."""
        return sorted(self.modules.items(), key=lambda item: _is_generic(item[1]))


def group(keys: Iterable[str]) -> Groups:
    """Group by module; of two names of one tensor use the first, or PEFT's without an adapter name."""
    names = dict.fromkeys(keys)
    groups = Groups({}, [], [], scales_of(names))
    set_aside = frozenset(groups.scales.values())
    repeated: list[str] = []
    for key in names:
        if key in set_aside or key.endswith(_LEFTOVERS) or _NOISE in key or _BEFORE in key:
            continue
        split = split_key(key)
        if split is None:
            groups.strangers.append(key)
            continue
        leaves = groups.modules.setdefault(split[0], {})
        other = leaves.setdefault(split[1], key)
        if other != key:
            if _is_named_form(other, key):
                leaves[split[1]], key = key, other
            repeated.append(key)
    groups.notes += report.noted(repeated, _REPEATED)
    _join_followers(groups)
    peft_seeded.share(groups.modules)  # first: what all layers share is at a name that theirs continue
    _find_owners(groups)
    return groups


def _is_named_form(key: str, plain: str) -> bool:
    """True if `key` is `plain` with an adapter name inserted: `lora_A.default_1.weight` for `lora_A.weight`."""
    head, _, tail = plain.rpartition(".")
    return len(key) > len(plain) and key.startswith(f"{head}.") and key.endswith(f".{tail}")


def _join_followers(groups: Groups) -> None:
    """Merge alphas and magnitudes whose layer has another name than the factors' (`to_out` for `to_out.0`)."""
    lone = [name for name, leaves in groups.modules.items() if leaves.keys() <= _FOLLOWERS and "bias" not in leaves]
    if not lone:
        return
    layers = {stem_of(name): leaves for name, leaves in groups.modules.items() if not leaves.keys() <= _FOLLOWERS}
    for name in lone:
        leaves = layers.get(stem_of(name))
        if leaves is not None and not leaves.keys() & groups.modules[name].keys():
            leaves.update(groups.modules.pop(name))


def _find_owners(groups: Groups) -> None:
    """Assign each unknown key that begins with a layer's name to that layer, so that the layer is not misapplied."""
    generic = [name for name, leaves in groups.modules.items() if _is_generic(leaves)]
    if not generic and not groups.strangers:
        return
    layers = groups.modules.keys() - generic
    extras: dict[str, list[str]] = {}
    for name in generic:
        owner = _owner(name, layers)
        if owner is not None and not name.startswith(f"{owner}.base_layer"):
            extras.setdefault(owner, []).extend(groups.modules.pop(name).values())
    strangers, groups.strangers = groups.strangers, []
    for key in strangers:
        owner = _owner(key, layers)
        (groups.strangers if owner is None else extras.setdefault(owner, [])).append(key)
    second = [owner for owner, keys in extras.items() if _is_second_adapter([key[len(owner) :] for key in keys])]
    groups.notes += report.noted([key for owner in second for key in extras.pop(owner)], _SECOND)
    groups.unknown = extras


def _is_generic(leaves: Mapping[str, str]) -> bool:
    return leaves.keys() <= _FOLLOWERS | _WHOLE and "on_input" not in leaves


def _plain_leaf(leaves: Mapping[str, str], entries: Mapping[str, Entry]) -> str:
    """The leaf that is the model's own parameter beside what was trained; "" where there is none."""
    if "weight" in leaves and "set_bias" in leaves:
        return "weight"
    bias = entries.get(leaves["bias"]) if "bias" in leaves else None
    return "bias" if bias is not None and len(bias.shape) == 1 else ""  # a residual of the weight has the weight's axes


def _owner(name: str, layers: Collection[str]) -> str | None:
    """Return the layer whose name `name` extends, after a dot or `_lora` (old diffusers, LoRA-XS); None if none."""
    for _ in range(_MAX_DOTS):
        glued = name.rpartition("_lora")[0]
        if glued in layers:
            return glued
        name = name.rpartition(".")[0]
        if not name or name in layers:
            return name or None
    return None


def _is_second_adapter(ends: list[str]) -> bool:
    found = [_SECOND_ADAPTER.match(end) for end in ends]
    pairs = {(match[1], match[2]) for match in found if match}
    return all(found) and all((other, number) in pairs for half, number in pairs for other in "AB" if other != half)


def with_whole(
    name: str, leaves: dict[str, str], shapes: Mapping[str, Shape], may_be: Collection[str]
) -> dict[str, str]:
    """Return the tensors with the model's own `weight` and `bias` renamed to `set_weight` and `set_bias`.

    PEFT saves fully trained parameters this way (modules_to_save, biases). A `bias` of several axes next to factors is
    LyCORIS' dense residual and keeps its name; the weight of a `base_layer` was not trained. `may_be`: which of the two
    PEFT may have trained under their own names; under `modules_to_save` it trained both.
    """
    if "on_input" in leaves or name.endswith(".base_layer"):
        return leaves
    if any(SAVED in key for key in leaves.values()):
        may_be = _WHOLE
    elif "." not in name or not is_prefixed(name):
        return leaves
    whole = {"bias": "set_bias"} if len(shapes.get("bias", ())) == 1 and "bias" in may_be else {}
    if leaves.keys() <= _WHOLE and "weight" in may_be:
        whole["weight"] = "set_weight"
    return {whole.get(leaf, leaf): key for leaf, key in leaves.items()}


class Builder:
    """Turns groups into modules; whatever cannot be used is told, not raised."""

    def __init__(self, source: Source, groups: Groups) -> None:
        self._entries, self._groups = source.entries, groups
        self._is_mixed = bool(foreign.part_of(source.entries))  # then some layers may not belong to an adapter
        self._judge = Judge()
        self.modules: dict[Stem, Module] = {}
        self.unusable: list[tuple[str, str]] = []
        self.plain: list[str] = []  # keys of whole weights under the model's own names
        self.notes: list[str] = []
        self._twice: list[str] = []  # pairs of names of one layer
        self._orphans = 0

    def add(self, name: str, leaves: dict[str, str], constants: Mapping[str, float]) -> None:
        """One module with its leaves (leaf -> key) and constants (leaf -> number)."""
        if _is_generic(leaves):
            whole = [leaves[leaf] for leaf in _WHOLE & leaves.keys()]
            self.plain.extend(whole)
            self._orphans += not whole
            return
        if plain := _plain_leaf(leaves, self._entries):
            self.plain.append(leaves[plain])
            leaves = {leaf: key for leaf, key in leaves.items() if leaf != plain}
        stem = stem_of(name)
        if stem in self.modules:
            self._twice.append(f"{name} and {self.modules[stem].name}")
            return
        scales = {leaf: self._groups.scales[key] for leaf, key in leaves.items() if key in self._groups.scales}
        tensors = {leaf: self._entries.get(key) for leaf, key in leaves.items()} | dict.fromkeys(constants)
        verdict = self._judge.verdict(tensors, scales.keys())
        reason = next(self._reasons(name, leaves), verdict.reason)
        if reason or verdict.algorithm is None:
            self.unusable.append((name, reason))
        else:
            self.modules[stem] = Module(stem, name, verdict.algorithm, leaves, verdict.shapes, constants, scales)

    def _reasons(self, name: str, leaves: Mapping[str, str]) -> Iterator[str]:
        """Return the reasons not to apply this module although its factors may be valid."""
        kind = foreign.part_of(leaves.values()) if self._is_mixed else ""
        if kind:
            yield f"is {kind}"
        for key in self._groups.unknown.get(name, ()):
            kind = foreign.kind_of(f".{key[len(name) :].lstrip('._')}")
            yield f"has a tensor {key[len(name) :].lstrip('._')!r}, " + (
                f"which belongs to {kind}" if kind else "which no supported algorithm uses"
            )

    def finish(self) -> None:
        """Add notes on modules without factors and on layers with two names; call after the last `add`."""
        self.notes += report.noted(self._twice, "mean the same layer; only the latter is used")
        if self._orphans:
            self.notes.append(f"{self._orphans} modules hold only alpha or magnitude and no factors; they do nothing")
