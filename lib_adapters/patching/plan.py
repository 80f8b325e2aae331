"""Matches adapters to layers: which patches change which parameter.

Patches of one parameter are kept in an order of their own, never the prompt's: sums of floats depend on their order.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lib_adapters.algorithms.base import Algorithm, LayerGroup, Shape
from lib_adapters.errors import AdapterError, ShapeMismatch
from lib_adapters.files.adapter import LoadedAdapter
from lib_adapters.files.blocks import weight_block
from lib_adapters.files.tensor_keys import LayerKey
from lib_adapters.patching.layers import Layer, LayerTable, ParamRef, WeightView
from lib_adapters.patching.patch import Key, ParamPatches, Patch, PatchesByParam, PatchKey, ScheduledStrength
from lib_adapters.patching.request import ALL_BLOCKS, Request

_ALL_ROWS = 1 << 62
Place = tuple[Key, tuple[int, int] | None]  # a layer, or the rows of a fused one
_Placed = tuple[Layer | None, str]  # the layer of a module, or the reason if there is none
_Kind = tuple[str, type[Algorithm]]  # component and algorithm: these layers share random projections


@dataclass
class AdapterMatch:
    """How one request met the model."""

    request: Request
    matched: Counter[str] = field(default_factory=Counter)  # algorithm label -> layers
    unmatched: list[tuple[str, str]] = field(default_factory=list)
    patches: list[tuple[ParamRef, Patch]] = field(default_factory=list)
    strengths: dict[str, ScheduledStrength] = field(default_factory=dict)  # by part: "unet", "te"
    layer_names: Mapping[Place, list[str]] = field(default_factory=dict)  # where rules ask for kinds of layers
    layers: int = 0  # modules that fit a layer; `matched` has those whose strength is not 0
    disabled_by_blocks: int = 0  # of them, by a block weight of 0
    unmatched_count: int = 0  # modules that are no layer of this model, or have another shape


def match_adapter(request: Request, loaded: LoadedAdapter, table: LayerTable) -> AdapterMatch:
    """Find the layer of every module of the file; what has none is named with its reason."""
    result = AdapterMatch(request, unmatched=[*request.adapter.skipped, *loaded.skipped])
    dialled = [part for part in ("unet", "te") if request.is_dynamic(part) or request.is_bypass(part)]
    result.strengths = {part: ScheduledStrength(request, part) for part in dialled}
    result.layer_names = _spellings(table) if request.blocks.rules else {}
    names = {module.key: module.name for module in request.adapter.layers}
    places = {stem: _find_layer(stem, algorithm, table) for stem, algorithm in loaded.algorithms.items()}
    groups = _groups(request, loaded, places)
    taken: dict[Key, list[tuple[range, str]]] = {}
    for stem, alone in loaded.algorithms.items():
        algorithm, layer, reason = _grouped(alone, places[stem], groups[stem])
        if layer is None:
            result.unmatched_count += 1
            result.unmatched.append((names[stem], reason))
        elif other := _take(taken, names[stem], algorithm, layer):
            reason = f"names the same layer as {other}, {layer.path}; only that one is used"
            result.unmatched.append((names[stem], reason))
        else:
            result.layers += 1
            _add(result, stem, algorithm, layer)
            if algorithm.has_bias and layer.bias is None:
                result.unmatched.append((names[stem], f"{layer.path} takes no bias"))
    return result


def _take(taken: dict[Key, list[tuple[range, str]]], name: str, algorithm: Algorithm, layer: Layer) -> str:
    """Reserve the rows that a module changes; return the name of a module that has reserved some of them, else ""."""
    refs = [layer.weight] if algorithm.has_weight else []
    refs += [layer.bias] if algorithm.has_bias and layer.bias is not None else []
    rows = range(*(layer.view.rows or (0, _ALL_ROWS)))
    for ref in refs:
        for others, other in taken.get(ref.key, ()):
            if rows.start < others.stop and others.start < rows.stop:
                return other
    for ref in refs:
        taken.setdefault(ref.key, []).append((rows, name))
    return ""


def _groups(request: Request, loaded: LoadedAdapter, places: Mapping[LayerKey, _Placed]) -> dict[LayerKey, LayerGroup]:
    """Return for each module the group of layers with the same algorithm and component, and how many are missing."""
    kinds = {module.key: (module.key.component, module.algorithm) for module in request.adapter.layers}
    of_file, unread = Counter(kinds.values()), len(request.adapter.skipped)
    shapes: dict[_Kind, list[Shape]] = {kind: [] for kind in of_file}
    for stem, (layer, _) in places.items():
        shapes[kinds[stem]].extend([] if layer is None else [layer.shape])
    groups = {
        kind: LayerGroup(tuple(found), of_file[kind] - len(found) + unread, loaded.shared)
        for kind, found in shapes.items()
    }
    return {stem: groups[kinds[stem]] for stem in places}


def _grouped(algorithm: Algorithm, place: _Placed, group: LayerGroup) -> tuple[Algorithm, Layer | None, str]:
    """Return the algorithm completed with what its group shares, its layer, and the reason if there is none."""
    layer, reason = place
    if layer is None:
        return algorithm, None, reason
    try:
        return algorithm.in_group(layer.shape, group), layer, ""
    except AdapterError as error:
        return algorithm, None, f"{layer.path}: {error}"


def _add(result: AdapterMatch, stem: LayerKey, algorithm: Algorithm, layer: Layer) -> None:
    """A strength of 0 is the absence of the adapter, to the bit."""
    request = result.request
    names = [stem.name.lower(), *result.layer_names.get(_layer_id(layer), ())]
    factor = 1.0 if request.blocks is ALL_BLOCKS else request.blocks.factor_for(weight_block(stem), names)
    result.disabled_by_blocks += not factor
    scheduled = result.strengths.get("unet" if stem.component == "unet" else "te")
    strength = factor if scheduled is not None else request.strength(stem.component) * factor
    if strength:
        result.matched[algorithm.label] += 1
        result.patches.extend(_patches(result, (stem, algorithm, layer), strength, scheduled))


def _spellings(table: LayerTable) -> Mapping[Place, list[str]]:
    """What rules for kinds of layers are compared with: each layer as any model and any file calls it."""
    found: dict[Place, list[str]] = {}
    for name, layer in (pair for names in (table.unet, *table.text_encoders) for pair in names.items()):
        found.setdefault(_layer_id(layer), []).append(name.lower())
    return found


def _layer_id(layer: Layer) -> Place:
    return layer.weight.key, layer.view.rows


def group_by_parameter(fits: Sequence[AdapterMatch]) -> PatchesByParam:
    """By parameter, what all requests add to it, in an order of its own."""
    targets: PatchesByParam = {}
    for ref, patch in (pair for one in fits for pair in one.patches):
        targets.setdefault(ref.key, ParamPatches(ref)).patches.append(patch)
    for target in targets.values():
        target.patches.sort(key=lambda patch: patch.key)
    return targets


def merge_tied(targets: Mapping[tuple[int, str], ParamPatches]) -> Mapping[tuple[int, str], ParamPatches]:
    """Tied modules share one parameter: it gets the sum of all their patches, and one record."""
    if not any(target.ref.tied_to for target in targets.values()):
        return targets
    found: PatchesByParam = {}
    for target in targets.values():
        ref = target.ref.tied_to or target.ref
        found.setdefault(ref.key, ParamPatches(ref)).patches.extend(target.patches)
    for target in found.values():
        target.patches.sort(key=lambda patch: patch.key)
    return found


def _find_layer(stem: LayerKey, algorithm: Algorithm, table: LayerTable) -> _Placed:
    candidates = table.lookup(stem)
    if not candidates:
        return None, _missing_layer_reason(stem, table)
    reason = ""
    for layer in candidates:
        if untouchable := next(filter(None, map(_unsupported_weight, (layer, *layer.fused_copies))), ""):
            reason = reason or untouchable
            continue
        try:
            return _fit_to_layer(layer, algorithm), ""
        except ShapeMismatch as error:
            reason = reason or f"{layer.path}: {error}"
    return None, reason


def _unsupported_weight(layer: Layer) -> str:
    """Why nothing may be added to this weight; "" where it may."""
    weight = layer.weight.tensor()
    if weight is None or (weight.is_floating_point() and not weight.is_meta):
        return ""
    if weight.is_meta:
        return "its weight is not loaded, it is on torch's meta device"
    return f"its weight is stored as {weight.dtype}, and only floating-point weights can be changed"


def _missing_layer_reason(stem: LayerKey, table: LayerTable) -> str:
    if stem.component != "unet" and not table.text_encoders:
        return "no text encoder was given"
    if stem.component == "unet" and not table.unet:
        return "no UNet was given"
    return "this model has no such layer"


def _fit_to_layer(layer: Layer, algorithm: Algorithm) -> Layer:
    """The layer as the algorithm can meet it; an inpainting model's conv_in by its first four channels."""
    try:
        algorithm.check_shape(layer.shape)
    except ShapeMismatch:
        if not _fits_four_channels(layer, algorithm):
            raise
        return replace(layer, view=WeightView(channels=4))
    return layer


def _fits_four_channels(layer: Layer, algorithm: Algorithm) -> bool:
    shape = layer.shape
    if not layer.path.endswith(("conv_in", "input_blocks.0.0")) or len(shape) != 4 or shape[1] <= 4:
        return False
    with contextlib.suppress(ShapeMismatch):
        algorithm.check_shape((shape[0], 4, *shape[2:]))
        return True
    return False


def _patches(
    result: AdapterMatch, place: tuple[LayerKey, Algorithm, Layer], strength: float, scheduled: ScheduledStrength | None
) -> Iterator[tuple[ParamRef, Patch]]:
    stem, algorithm, layer = place
    request = result.request
    dyn = request.dyn if isinstance(request.dyn, int) and scheduled is None else None
    if dyn is not None:
        algorithm = algorithm.truncate(dyn)

    def key(kind: str) -> PatchKey:
        """With a dial it must tell apart what the same file is asked for in several ways."""
        return request.key[0], stem, strength, dyn or 0, kind if scheduled is None else f"{kind} {request.key[1]}"

    for held in (layer, *layer.fused_copies):
        if algorithm.has_weight:
            yield held.weight, Patch(key("weight"), held.view, algorithm, strength, scheduled=scheduled)
        if algorithm.has_bias and held.bias is not None:
            view = WeightView(rows=held.view.rows)
            yield held.bias, Patch(key("bias"), view, algorithm, strength, is_bias=True, scheduled=scheduled)
