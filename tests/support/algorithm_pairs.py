"""One adapter of every algorithm for one model that has each of their layers, with and without a bias."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lib_adapters import Adapter, Request, Session, open_adapter
from lib_adapters.algorithms.base import Algorithm, Shape
from lib_adapters.errors import ShapeMismatch
from lib_adapters.files.loading import LoadedAdapter
from tests.support.algorithm_examples import examples
from tests.support.reference_math import Example

EXAMPLES = examples()
LABELS = tuple(sorted({example.read().label for example in EXAMPLES.values()}))
State = Mapping[str, Tensor]


def shapes() -> list[Shape]:
    """Of all examples; a matrix is a 1x1 convolution too."""
    found = {example.shape for example in EXAMPLES.values()}
    return sorted(found | {(*shape, 1, 1) for shape in found if len(shape) == 2})


def layer(shape: Shape, bias: bool) -> nn.Module:
    if len(shape) == 1:
        norm = nn.LayerNorm(shape[0])
        norm.bias = norm.bias if bias else None
        return norm
    if len(shape) == 2:
        return nn.Linear(shape[1], shape[0], bias=bias)
    return nn.Conv2d(shape[1], shape[0], shape[2:], padding=1, bias=bias)


def model() -> nn.Module:
    """Its layers stand beside each other: each is called by itself."""
    torch.manual_seed(0)
    layers = [layer(shape, bias) for shape in shapes() for bias in (True, False)]
    return nn.ModuleDict({f"layer{n}": one for n, one in enumerate(layers)}).requires_grad_(False)


def outputs(model: nn.Module, names: Iterable[str]) -> dict[str, Tensor]:
    with torch.no_grad():
        return {name: model[name](_input(model[name])) for name in names}


def _input(one: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if isinstance(one, nn.Conv2d):
        return torch.randn(2, one.in_channels, 4, 4, generator=generator)
    return torch.randn(2, 3, one.weight.shape[-1], generator=generator)


def state(model: nn.Module) -> dict[str, Tensor]:
    """A layer without a bias has no entry for one."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def differing(one: State, other: State) -> list[str]:
    """Names that only one has, or that differ in any bit of their values."""
    return sorted(name for name in one.keys() | other.keys()
                  if name not in one or name not in other or not torch.equal(one[name], other[name]))  # fmt: skip


class Shelf:
    """In the place of a session's cache: a file does not say all that an example knows of its trainer."""

    def __init__(self, folder: Path) -> None:
        self.adapters: dict[str, Adapter] = {}
        self.layers: dict[str, set[str]] = {}
        self._loaded: dict[str, LoadedAdapter] = {}
        self._fresh: dict[frozenset[str], tuple[State, State]] = {}
        for label in LABELS:
            self._put(label, folder / f"{label}.safetensors")

    def _put(self, label: str, path: Path) -> None:
        of_label = [one for one in EXAMPLES.values() if one.read().label == label]
        chosen = {name: found for name, one in model().items() if (found := fitting(of_label, one)) is not None}
        leaves = {f"lora_unet_{name}.{leaf}": tensor.contiguous().clone()
                  for name, example in chosen.items() for leaf, tensor in example.leaves.items()}  # fmt: skip
        save_file(leaves, path)
        adapter = self.adapters[label] = open_adapter(path)
        algorithms = {module.key: chosen[module.key.name].read() for module in adapter.layers}
        self.layers[label] = {stem.name for stem in algorithms}
        self._loaded[adapter.cache_key] = LoadedAdapter(algorithms, [], adapter.nbytes)

    def get(self, adapter: Adapter, device: torch.device) -> LoadedAdapter:
        return self._loaded[adapter.cache_key]

    def clear(self) -> None:
        """Nothing is read, so nothing is kept."""

    def session(self, mode: str = "merged") -> tuple[nn.Module, Session]:
        model_ = model()
        session = Session(unet=model_, mode=mode)
        session._cache = self
        return model_, session

    def fresh(self, *labels: str) -> tuple[State, State]:
        """Weights and outputs of a model of its own that nothing else was done to."""
        if (key := frozenset(labels)) not in self._fresh:
            model_, session = self.session()
            session.activate([self.request(label) for label in key])
            self._fresh[key] = state(model_), outputs(model_, model_)
        return self._fresh[key]

    def meeting(self, one: str, other: str) -> list[str]:
        """The layers of both, at most one of each kind: with a bias and without."""
        names = sorted(self.layers[one] & self.layers[other])
        return list({name[-1:] in "02468": name for name in names}.values())

    def request(self, label: str, unet: float = 0.5, **options: object) -> Request:
        return Request(self.adapters[label], unet, **options)


def fitting(found: list[Example], one: nn.Module) -> Example | None:
    """Where several fit, one that changes a bias; else each has its turn."""
    fit = [example for example in found if _fits(example.read(), tuple(one.weight.shape))]
    with_bias = [example for example in fit if example.read().has_bias]
    turn = one.weight.numel() + (one.bias is None)
    return None if not fit else with_bias[0] if with_bias else fit[turn % len(fit)]


def _fits(algorithm: Algorithm, shape: Shape) -> bool:
    try:
        algorithm.check_shape(shape)
    except ShapeMismatch:
        return False
    return True
