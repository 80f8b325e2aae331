"""Layers of an adapter file: grouping of keys, and the algorithm of each layer or the reason why it has none."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from lib_adapters.algorithms import select_algorithm
from lib_adapters.algorithms.base import Algorithm, Shape
from lib_adapters.errors import UnknownAlgorithm
from lib_adapters.files import peft_tuners, split_qkv, unsupported
from lib_adapters.files.key_formats import has_known_prefix, layer_key
from lib_adapters.files.quantization import QUANTIZED_DTYPES, match_scale_keys
from lib_adapters.files.tensor_file import TensorEntry, TensorFile, torch_dtype
from lib_adapters.files.tensor_keys import MODULES_TO_SAVE, LayerKey, split_key

INTEGER_SUFFIXES = ("_indices", "_size")  # ends of the leaves that are positions and sizes
SCALARS = frozenset({"alpha", "scale", "scalar", "on_input", "lora2_nu", "bias_size", *peft_tuners.CONFIG_CONSTANTS})

_REQUIRED_SETS = (
    ("lora_up.weight", "lora_down.weight"),
    ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    ("lokr_w1_a", "lokr_w1_b"),
    ("lokr_w2_a", "lokr_w2_b"),
    ("a1.weight", "a2.weight", "b1.weight", "b2.weight"),
    ("q_layer.weight", "p_layer.weight"),
    ("lora_up1.weight", "lora_down1.weight", "lora_up2.weight", "lora_down2.weight"),
    ("S_p", "S_q", "P_basis", "Q_basis"),
    ("bias_indices", "bias_values", "bias_size"),
    ("boft_R", "boft_s"),
    ("delora_A", "delora_B", "delora_lambda", "delora_w_norm"),
    ("gralora_A", "gralora_B"),
    ("gralora_A_general.weight", "gralora_B_general.weight"),
    ("hira_A", "hira_B"),
    ("shira_weight", "shira_indices"),
    *peft_tuners.CONFIG_TUNER_SETS,
)


@dataclass(frozen=True)
class Classification:
    """What the tensors of one module are; `shapes` by canonical leaf, parts of a split layer joined."""

    shapes: Mapping[str, Shape]
    algorithm: type[Algorithm] | None
    reason: str = ""  # why there is no algorithm


class LayerClassifier:
    """Remembers verdicts: a file has thousands of modules and a few dozen different ones."""

    def __init__(self) -> None:
        self._cache: dict[tuple[tuple[str, str, Shape, bool, bool], ...], Classification] = {}

    def classify(self, tensors: Mapping[str, TensorEntry | None], quantized: Collection[str] = ()) -> Classification:
        """`tensors`: tensor name -> its entry, None for a plain number. `scaled`: names of quantised tensors."""
        key = tuple(
            (tensor_name, e.dtype, e.shape, e.start == e.end, tensor_name in quantized)
            if e
            else (tensor_name, "", (), False, False)
            for tensor_name, e in tensors.items()
        )
        found = self._cache.get(key)
        if found is None:
            found = self._cache[key] = _classify(tensors, quantized)
        return found


def _classify(tensors: Mapping[str, TensorEntry | None], scaled: Collection[str]) -> Classification:
    shapes = split_qkv.joined_shapes(
        {tensor_name: entry.shape if entry else () for tensor_name, entry in tensors.items()}
    )
    reasons = (
        _bad_tensor(tensor_name, entry, tensor_name in scaled) for tensor_name, entry in tensors.items() if entry
    )
    reason = next(filter(None, reasons), "") or missing_factor(shapes) or peft_tuners.missing_config(shapes)
    if reason:
        return Classification(shapes, None, reason)
    try:
        return Classification(shapes, select_algorithm(shapes))
    except UnknownAlgorithm as error:
        return Classification(shapes, None, str(error))


def _bad_tensor(tensor_name: str, entry: TensorEntry, is_scaled: bool) -> str:
    if torch_dtype(entry.dtype) is None:
        return f"{tensor_name} is stored as {entry.dtype}, which torch cannot compute with"
    if entry.start == entry.end:
        return f"{tensor_name} is empty (rank 0)"
    if tensor_name in SCALARS - {"bias_size"} and any(axis != 1 for axis in entry.shape):
        return f"{tensor_name} should be one number, not {list(entry.shape)}"
    if is_scaled and entry.dtype not in QUANTIZED_DTYPES:
        return f"{tensor_name} is stored as {entry.dtype} with a scale, but only I8 and F8 tensors can have one"
    if not is_scaled and entry.dtype.startswith(("I", "U")) and not _may_be_whole_numbers(tensor_name, entry.shape):
        return f"{tensor_name} is stored as {entry.dtype} without a scale, so its values are unknown"
    return ""


def _may_be_whole_numbers(tensor_name: str, shape: Shape) -> bool:
    """True for positions, sizes and single numbers; factors are never integers."""
    return math.prod(shape) == 1 or tensor_name.endswith(INTEGER_SUFFIXES)


def missing_factor(shapes: Mapping[str, Shape]) -> str:
    """Factors come in pairs; half a pair is a damaged module."""
    for needed in _REQUIRED_SETS:
        there = [tensor_name for tensor_name in needed if tensor_name in shapes]
        if there and len(there) < len(needed):
            lost = ", ".join(tensor_name for tensor_name in needed if tensor_name not in shapes)
            return f"{', '.join(there)} without {lost}: the module is damaged"
    return ""


# Keys -> modules: what one file does to one layer, and which algorithm says so. Shapes only; no tensor is read.


_AUXILIARY_TENSORS = SCALARS | {"dora_scale", "rescale", "bias", "lora_up.bias", "lora_down.bias", "oft_R.scaled_oft"}
_MODEL_PARAMETERS = frozenset({"weight", "bias"})  # names of a model's own parameters

# Training leaves these in a file, and no result depends on them: activation scales of 8-bit layers, MonteCLoRA's noise,
# the second adapter (`default_1`) that PEFT saves with the first when training was resumed, and the layers as they were
# before training (`original_module`) in a file of the whole PeftModel.
_IGNORED_SUFFIXES = ("scaled_fp8", ".input_scale", ".scale_input", ".num_batches_tracked")
_IGNORED_NOISE, _IGNORED_ORIGINALS = ".lora_monteclora_sampler.", ".original_module."
_SECOND_ADAPTER = re.compile(r"^\.lora_([AB])(?:\.default)?_(\d{1,4})\.weight$")
_REPEATED_REASON = "repeats a tensor under another name, or belongs to another adapter in the file, and is not used"
_SECOND_ADAPTER_REASON = "belongs to a second adapter in the same file, which is not used"
_MAX_KEY_LEVELS = 8  # levels of a key that are searched for its layer


@dataclass(frozen=True)
class AdapterLayer:
    """One layer's worth of a file."""

    key: LayerKey
    name: str  # as written in the file
    algorithm: type[Algorithm]
    tensor_keys: Mapping[str, str]  # canonical leaf -> key in the file
    shapes: Mapping[str, Shape]
    constants: Mapping[str, float] = field(default_factory=dict)  # leaves that a config beside the tensors holds
    scale_keys: Mapping[str, str] = field(default_factory=dict)  # tensor name of a quantised tensor -> key of its scale


@dataclass
class KeyGroups:
    """Keys sorted by module, before anybody asks what they are."""

    layers: dict[str, dict[str, str]]  # module as written -> leaf -> key
    unrecognized: list[str]  # keys of no known format that belong to no layer of the file
    notes: list[str]
    scale_keys: dict[str, str] = field(default_factory=dict)  # key of a quantised tensor -> key of its scale
    unrecognized_by_layer: dict[str, list[str]] = field(
        default_factory=dict
    )  # module -> keys of its tensors of no known format

    @property
    def contains_base_model(self) -> bool:
        """True for a whole model with its adapter (`PeftModel.state_dict()`): most of its weights were not trained."""
        return any(name.endswith(".base_layer") and "weight" in leaves for name, leaves in self.layers.items())

    @property
    def has_factors(self) -> bool:
        """False for a file with whole weights only, which is a model and not an adapter."""
        return any(not _is_generic(leaves) for leaves in self.layers.values())

    def ordered_layers(self) -> list[tuple[str, dict[str, str]]]:
        """Return the modules with factors first, because the first of two names of a layer is used."""
        return sorted(self.layers.items(), key=lambda item: _is_generic(item[1]))


def group_keys(keys: Iterable[str]) -> KeyGroups:
    """Group by module; of two names of one tensor use the first, or PEFT's without an adapter name."""
    names = dict.fromkeys(keys)
    groups = KeyGroups({}, [], [], match_scale_keys(names))
    set_aside = frozenset(groups.scale_keys.values())
    repeated: list[str] = []
    for key in names:
        if key in set_aside or key.endswith(_IGNORED_SUFFIXES) or _IGNORED_NOISE in key or _IGNORED_ORIGINALS in key:
            continue
        split = split_key(key)
        if split is None:
            groups.unrecognized.append(key)
            continue
        leaves = groups.layers.setdefault(split[0], {})
        other = leaves.setdefault(split[1], key)
        if other != key:
            if _is_named_form(other, key):
                leaves[split[1]], key = key, other
            repeated.append(key)
    groups.notes += unsupported.keys_note(repeated, _REPEATED_REASON)
    _join_followers(groups)
    peft_tuners.add_shared_tensors(groups.layers)  # first: what all layers share is at a name that theirs continue
    _find_owners(groups)
    return groups


def _is_named_form(key: str, plain: str) -> bool:
    """True if `key` is `plain` with an adapter name inserted: `lora_A.default_1.weight` for `lora_A.weight`."""
    head, _, tail = plain.rpartition(".")
    return len(key) > len(plain) and key.startswith(f"{head}.") and key.endswith(f".{tail}")


def _join_followers(groups: KeyGroups) -> None:
    """Merge alphas and magnitudes whose layer has another name than the factors' (`to_out` for `to_out.0`)."""
    lone = [
        name for name, leaves in groups.layers.items() if leaves.keys() <= _AUXILIARY_TENSORS and "bias" not in leaves
    ]
    if not lone:
        return
    layers = {
        layer_key(name): leaves for name, leaves in groups.layers.items() if not leaves.keys() <= _AUXILIARY_TENSORS
    }
    for name in lone:
        leaves = layers.get(layer_key(name))
        if leaves is not None and not leaves.keys() & groups.layers[name].keys():
            leaves.update(groups.layers.pop(name))


def _find_owners(groups: KeyGroups) -> None:
    """Assign each unknown key that begins with a layer's name to that layer, so that the layer is not misapplied."""
    generic = [name for name, leaves in groups.layers.items() if _is_generic(leaves)]
    if not generic and not groups.unrecognized:
        return
    layers = groups.layers.keys() - generic
    extras: dict[str, list[str]] = {}
    for name in generic:
        owner = _owner(name, layers)
        if owner is not None and not name.startswith(f"{owner}.base_layer"):
            extras.setdefault(owner, []).extend(groups.layers.pop(name).values())
    unrecognized, groups.unrecognized = groups.unrecognized, []
    for key in unrecognized:
        owner = _owner(key, layers)
        (groups.unrecognized if owner is None else extras.setdefault(owner, [])).append(key)
    second = [owner for owner, keys in extras.items() if _is_second_adapter([key[len(owner) :] for key in keys])]
    groups.notes += unsupported.keys_note(
        [key for owner in second for key in extras.pop(owner)], _SECOND_ADAPTER_REASON
    )
    groups.unrecognized_by_layer = extras


def _is_generic(leaves: Mapping[str, str]) -> bool:
    return leaves.keys() <= _AUXILIARY_TENSORS | _MODEL_PARAMETERS and "on_input" not in leaves


def _plain_leaf(leaves: Mapping[str, str], entries: Mapping[str, TensorEntry]) -> str:
    """The leaf that is the model's own parameter beside what was trained; "" where there is none."""
    if "weight" in leaves and "set_bias" in leaves:
        return "weight"
    bias = entries.get(leaves["bias"]) if "bias" in leaves else None
    return "bias" if bias is not None and len(bias.shape) == 1 else ""  # a residual of the weight has the weight's axes


def _owner(name: str, layers: Collection[str]) -> str | None:
    """Return the layer whose name `name` extends, after a dot or `_lora` (old diffusers, LoRA-XS); None if none."""
    for _ in range(_MAX_KEY_LEVELS):
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


def rename_to_set_weights(
    name: str, tensor_keys: dict[str, str], shapes: Mapping[str, Shape], trainable: Collection[str]
) -> dict[str, str]:
    """Return the tensors with the model's own `weight` and `bias` renamed to `set_weight` and `set_bias`.

    PEFT saves fully trained parameters this way (modules_to_save, biases). A `bias` of several axes next to factors is
    LyCORIS' dense residual and keeps its name; the weight of a `base_layer` was not trained. `may_be`: which of the two
    PEFT may have trained under their own names; under `modules_to_save` it trained both.
    """
    if "on_input" in tensor_keys or name.endswith(".base_layer"):
        return tensor_keys
    if any(MODULES_TO_SAVE in key for key in tensor_keys.values()):
        trainable = _MODEL_PARAMETERS
    elif "." not in name or not has_known_prefix(name):
        return tensor_keys
    whole = {"bias": "set_bias"} if len(shapes.get("bias", ())) == 1 and "bias" in trainable else {}
    if tensor_keys.keys() <= _MODEL_PARAMETERS and "weight" in trainable:
        whole["weight"] = "set_weight"
    return {whole.get(tensor_name, tensor_name): key for tensor_name, key in tensor_keys.items()}


class LayerCollector:
    """Turns groups into modules; whatever cannot be used is told, not raised."""

    def __init__(self, tensor_file: TensorFile, groups: KeyGroups) -> None:
        self._entries, self._groups = tensor_file.entries, groups
        self._is_mixed = bool(
            unsupported.unsupported_layer_kind(tensor_file.entries)
        )  # then some layers may not belong to an adapter
        self._classifier = LayerClassifier()
        self.layers: dict[LayerKey, AdapterLayer] = {}
        self.skipped: list[tuple[str, str]] = []
        self.full_weight_keys: list[str] = []  # keys of whole weights under the model's own names
        self.notes: list[str] = []
        self._duplicates: list[str] = []  # pairs of names of one layer
        self._without_factors = 0

    def add(self, name: str, tensor_keys: dict[str, str], constants: Mapping[str, float]) -> None:
        """One module with its leaves (leaf -> key) and constants (leaf -> number)."""
        if _is_generic(tensor_keys):
            whole = [tensor_keys[tensor_name] for tensor_name in _MODEL_PARAMETERS & tensor_keys.keys()]
            self.full_weight_keys.extend(whole)
            self._without_factors += not whole
            return
        if plain := _plain_leaf(tensor_keys, self._entries):
            self.full_weight_keys.append(tensor_keys[plain])
            tensor_keys = {tensor_name: key for tensor_name, key in tensor_keys.items() if tensor_name != plain}
        stem = layer_key(name)
        if stem in self.layers:
            self._duplicates.append(f"{name} and {self.layers[stem].name}")
            return
        scales = {
            tensor_name: self._groups.scale_keys[key]
            for tensor_name, key in tensor_keys.items()
            if key in self._groups.scale_keys
        }
        tensors = {tensor_name: self._entries.get(key) for tensor_name, key in tensor_keys.items()} | dict.fromkeys(
            constants
        )
        verdict = self._classifier.classify(tensors, scales.keys())
        reason = next(self._reasons(name, tensor_keys), verdict.reason)
        if reason or verdict.algorithm is None:
            self.skipped.append((name, reason))
        else:
            self.layers[stem] = AdapterLayer(
                stem, name, verdict.algorithm, tensor_keys, verdict.shapes, constants, scales
            )

    def _reasons(self, name: str, leaves: Mapping[str, str]) -> Iterator[str]:
        """Return the reasons not to apply this module although its factors may be valid."""
        kind = unsupported.unsupported_layer_kind(leaves.values()) if self._is_mixed else ""
        if kind:
            yield f"is {kind}"
        for key in self._groups.unrecognized_by_layer.get(name, ()):
            kind = unsupported.unsupported_tensor_kind(f".{key[len(name) :].lstrip('._')}")
            yield f"has a tensor {key[len(name) :].lstrip('._')!r}, " + (
                f"which belongs to {kind}" if kind else "which no supported algorithm uses"
            )

    def finish(self) -> None:
        """Add notes on modules without factors and on layers with two names; call after the last `add`."""
        self.notes += unsupported.keys_note(self._duplicates, "mean the same layer; only the latter is used")
        if self._without_factors:
            self.notes.append(
                f"{self._without_factors} modules hold only alpha or magnitude and no factors; they do nothing"
            )
