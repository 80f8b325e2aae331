"""The layers of a live model under every name by which a file may refer to them.

The table is made from the model itself; names are never un-flattened by replacing text (`_` means both "." and "_").
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from lib_adapters.algorithms.base import Shape
from lib_adapters.files.tensor_keys import LayerKey
from lib_adapters.patching import key_maps
from lib_adapters.patching.base_model import family_of
from lib_adapters.patching.fused import with_fused_copies
from lib_adapters.patching.named_modules import named_modules
from lib_adapters.patching.parameters import current_tensor

UNET_ANCHOR = re.compile(r"(?:^|\.)((?:input|output|middle|down|up|mid|joint|transformer|double)_blocks?\.)")
TEXT_ANCHOR = re.compile(r"(?:^|\.)((?:text_model\.)?encoder\.layers\.|transformer\.resblocks\.|encoder\.block\.)")
WRAPPED = re.compile(r"\.(wrapped|base_layer)\b")  # a layer inside a host's or PEFT's own

Weak = weakref.ref[nn.Module]


@dataclass(frozen=True, eq=False)
class ParamRef:
    """One parameter by the module that owns it; weak, so that an old checkpoint can be freed."""

    module: Weak
    name: str
    path: str
    root: Weak  # the UNet or text encoder it is a part of
    reader: Weak  # whose forward reads the parameter: the owner, or the attention around it
    tied_to: ParamRef | None = None  # the first module that owns the same parameter, where modules are tied

    @property
    def key(self) -> tuple[int, str]:
        return id(self.module()), self.name

    def parameter(self) -> nn.Parameter | None:
        module = self.module()
        return None if module is None else module._parameters.get(self.name)

    def tensor(self) -> Tensor | None:
        """Return the tensor of the parameter, or the one it is loaded from if it is offloaded."""
        return current_tensor(self.module(), self.name)

    def is_loaded(self) -> bool:
        """True if the parameter holds its values itself, so that it can be recognised by identity; False on `meta`."""
        return (parameter := self.parameter()) is not None and not parameter.is_meta


@dataclass(frozen=True)
class WeightView:
    """How a layer's weight lies inside its parameter."""

    rows: tuple[int, int] | None = None  # a third of a fused q/k/v matrix
    transposed: bool = False  # OpenCLIP's text_projection
    channels: int | None = None  # the first input channels of an inpainting model's conv_in

    def apply(self, tensor: Tensor) -> Tensor:
        """That part of the parameter, sharing its memory."""
        if self.transposed:
            tensor = tensor.t()
        if self.rows is not None:
            tensor = tensor[self.rows[0] : self.rows[1]]
        return tensor if self.channels is None else tensor[:, : self.channels]


@dataclass(frozen=True)
class Layer:
    """A layer as trainers see it: a weight, and where its bias is or would be."""

    path: str
    weight: ParamRef
    bias: ParamRef | None
    view: WeightView = WeightView()
    fused_copies: tuple[Layer, ...] = ()  # duplicates of this weight in the model; deltas are applied to them too

    @property
    def shape(self) -> Shape:
        weight = self.weight.parameter()
        return () if weight is None else tuple(self.view.apply(weight).shape)


@dataclass(frozen=True)
class LayerTable:
    """Names -> layers, for the UNet and for each text encoder."""

    unet: Mapping[str, Layer]
    text_encoders: tuple[Mapping[str, Layer], ...]
    family: str

    @classmethod
    def from_model(cls, unet: nn.Module | None, text_encoders: Sequence[nn.Module]) -> LayerTable:
        denoiser = dict(_unet_names(unet)) if unet is not None else {}
        encoders = tuple(dict(_text_names(encoder)) for encoder in text_encoders)
        return cls(denoiser, encoders, family_of(denoiser, encoders))

    def lookup(self, key: LayerKey) -> list[Layer]:
        """The layers a stem may mean, best first; the first whose shape fits is the one."""
        if key.component == "unet":
            return [self.unet[key.name]] if key.name in self.unet else []
        return [names[key.name] for names in self._encoders(key.component) if key.name in names]

    def _encoders(self, part: str) -> tuple[Mapping[str, Layer], ...]:
        """`te` of a file for two encoders says nothing about which; the refiner's only encoder is called te2."""
        encoders = self.text_encoders
        if part == "te1" and self.family == "sdxl-refiner":
            return ()
        if part == "te" or len(encoders) == 1:
            return encoders
        index = {"te1": 0, "te2": 1, "te3": 2}.get(part, len(encoders))
        return encoders[index : index + 1]


def flat(path: str) -> str:
    """A path as files write it."""
    return path.replace(".", "_")


def _unet_names(root: nn.Module) -> Iterator[tuple[str, Layer]]:
    layers = with_fused_copies(_anchored(_layers(root), UNET_ANCHOR))
    known: dict[str, Layer] = {}
    per_level, foreign = key_maps.resnets_per_level(layers), key_maps.inserted_levels(layers)
    if foreign:
        layers = {key_maps.remove_inserted(path, foreign): layer for path, layer in layers.items()}
    prefixes = {path[: match.end()] for path in layers for match in re.finditer(r"\.\d+(?=\.)", path)}
    for path, layer in layers.items():
        other = key_maps.ldm_to_diffusers(path, per_level) or key_maps.diffusers_to_ldm(
            path, prefixes.__contains__, per_level
        )
        for name in filter(None, (path, other)):
            known.setdefault(flat(name), layer)
            if name.endswith(".to_out"):  # files that lack the 0 of `to_out.0` are read as if they had it
                known.setdefault(f"{flat(name)}_0", layer)
    known.update((name, layer) for name, layer in _sd3_names(layers) if name not in known)
    return iter(known.items())


def _sd3_names(layers: Mapping[str, Layer]) -> Iterator[tuple[str, Layer]]:
    last = max((int(m[1]) for path in layers if (m := re.match(r"joint_blocks\.(\d+)\.", path))), default=-1)
    for path, layer in layers.items():
        names = key_maps.sd3_to_diffusers(path, last)
        for name, part in zip(names, _split_qkv(layer) if len(names) == 3 else [layer], strict=False):
            yield flat(name), part


def _text_names(root: nn.Module) -> Iterator[tuple[str, Layer]]:
    for path, layer in _anchored(_layers(root), TEXT_ANCHOR).items():
        for name, part in _text_spellings(path, layer):
            yield flat(name), part
            if name.startswith("text_model."):
                yield flat(name.removeprefix("text_model.")), part


def _text_spellings(path: str, layer: Layer) -> Iterator[tuple[str, Layer]]:
    """Own name, Hugging Face's name (with and without the level transformers 5 dropped), thirds of fused matrices."""
    yield path, layer
    if path.endswith(".attn.in_proj"):
        block = path.removeprefix("transformer.resblocks.").removesuffix(".attn.in_proj")
        names = [f"text_model.encoder.layers.{block}.{name}" for name in key_maps.FUSED_HF]
        yield from zip(names, _split_qkv(layer), strict=True)
    elif other := key_maps.openclip_to_hf(path):
        bare = layer.weight.name == "text_projection"  # OpenCLIP's parameter; Hugging Face's is a linear layer
        yield other, replace(layer, view=WeightView(transposed=True)) if bare else layer
    elif path.startswith(("encoder.layers.", "embeddings.", "final_layer_norm")):
        yield f"text_model.{path}", layer


def _split_qkv(layer: Layer) -> Iterator[Layer]:
    third = layer.shape[0] // 3
    for n in range(3):
        yield replace(layer, path=f"{layer.path}[{'qkv'[n]}]", view=WeightView(rows=(n * third, (n + 1) * third)))


def _anchored(layers: Iterable[Layer], anchor: re.Pattern[str]) -> dict[str, Layer]:
    """Paths as the bare model would spell them: a wrapper's prefix (`diffusion_model.`, `transformer.`) is cut off.

    The shortest prefix is the model's own: a CLIP with its vision tower has a second one.
    """
    by_path = {layer.path: layer for layer in layers}
    prefixes = [path[: match.start(1)] for path in by_path if (match := anchor.search(path))]
    prefix = min(prefixes, key=len, default="")
    return {WRAPPED.sub("", path.removeprefix(prefix)): layer for path, layer in by_path.items()}


def _layers(root: nn.Module) -> Iterator[Layer]:
    modules, whole = dict(named_modules(root)), weakref.ref(root)
    first: dict[int, ParamRef] = {}  # by the parameter's id
    for path, module in modules.items():
        parent = modules.get(path.rpartition(".")[0])
        # nn.MultiheadAttention never calls its out_proj, it reads its weight
        caller = weakref.ref(parent if isinstance(parent, nn.MultiheadAttention) else module)
        for name, parameter in module._parameters.items():
            if parameter is not None and not name.endswith("bias"):
                layer = _layer(path, module, name, whole, caller)
                tied = first.setdefault(id(parameter), layer.weight)
                yield layer if tied is layer.weight else replace(layer, weight=replace(layer.weight, tied_to=tied))


def _layer(path: str, module: nn.Module, name: str, root: Weak, caller: Weak) -> Layer:
    """`x.weight` is the layer x; `attn.in_proj_weight` is attn.in_proj; a bare Parameter is a layer by its own name."""
    stem = name.removesuffix("weight")
    full = ".".join(part for part in (path, stem.rstrip("_")) if part)
    bias = f"{stem}bias" if stem != name else ""

    def slot(attribute: str) -> ParamRef:
        return ParamRef(weakref.ref(module), attribute, full, root, caller)

    return Layer(full, slot(name), slot(bias) if bias in module._parameters else None)
