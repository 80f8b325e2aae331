"""How right each reader of adapter files is: what the touched layers give, beside their trainer's ΔW in float64."""

from __future__ import annotations

import copy
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call

from benchmarks.adapter_case import Setting, stem
from benchmarks.adapter_readers import Job, Loader, loaders, quietly
from benchmarks.bench_model import make_unet
from benchmarks.checked_files import RANK
from benchmarks.checked_formats import KINDS, Kind
from benchmarks.model_layers import unet as layers_of
from benchmarks.synthetic_adapters import Leaves
from lib_adapters.algorithms.base import Shape

LAYERS = 6  # of each kind of file
SETTING = Setting("tiny", RANK, torch.device("cpu"), torch.float32, 1, processor_time=False)
Truth = Mapping[str, tuple[Tensor, Tensor, Tensor]]  # layer -> what it looks at, what it gives plainly and rightly


@dataclass(frozen=True)
class Verdict:
    """One reader on one kind of file. The error is the largest of the layers: 0 right, 1 as if nothing were applied."""

    kind: str
    who: str
    error: float | None
    exact: bool | None  # were all weights what they had been, once taken back?
    refused: str = ""

    @property
    def right(self) -> bool:
        return self.error is not None and self.error < 1e-4


def run(names: Sequence[str] = tuple(KINDS)) -> Iterator[Verdict]:
    model = make_unet(SETTING)
    for name in names:
        print(f"correctness: {name}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            job, truth = make(KINDS[name], model, Path(folder))
            for reader in loaders():
                yield quietly(partial(_judge, name, reader, job, truth, copy.deepcopy(model)))


def make(kind: Kind, model: nn.Module, folder: Path) -> tuple[Job, Truth]:
    torch.manual_seed(0)
    shapes = touched(kind.recipe.where)
    leaves = {path: _larger(kind.recipe.make(shape, RANK)) for path, shape in shapes.items()}
    file = folder / "adapter.safetensors"
    names = (lambda path: f"base_model.model.{path}") if kind.dotted else stem
    save_file({f"{names(path)}.{key}": leaf.contiguous() for path, own in leaves.items() for key, leaf in own.items()},
              file, dict(kind.metadata))  # fmt: skip
    truth = {path: _truth(model.get_submodule(path), kind, leaves[path]) for path in shapes}
    return Job(kind, file, shapes, SETTING), truth


def _larger(leaves: Leaves) -> Leaves:
    """So that what the adapter changes is well above what float32 rounds in the layer's output."""
    left = {"alpha", "on_input", "dora_scale", "rescale", "oft_diag", "oft_R.weight"}
    return {name: leaf if name in left else leaf * 4 for name, leaf in leaves.items()}


def touched(where: str) -> dict[str, Shape]:
    """Some layers of every sort that the kind is for."""
    found = [(path, shape) for path, shape in layers_of(SETTING.family).items() if _wanted(where, path, shape)]
    return dict(found[:: max(1, len(found) // LAYERS)][:LAYERS])


def _wanted(where: str, path: str, shape: Shape) -> bool:
    if where == "norms" or len(shape) == 1:
        return where == "norms" and len(shape) == 1
    if where == "spatial":
        return shape[2:] == (3, 3)
    inside = where == "all" or ".attentions." in path
    return inside and (where != "linear" or len(shape) == 2) and (where != "wide" or min(shape[:2]) >= 128)


def _truth(layer: nn.Module, kind: Kind, leaves: Leaves) -> tuple[Tensor, Tensor, Tensor]:
    weight = layer.get_parameter("weight").double()
    delta = kind.recipe.delta(weight, {key: leaf.double() for key, leaf in leaves.items()})
    x, exact = seen_by(layer), copy.deepcopy(layer).double()
    plain = exact(x.double())
    return x, plain, functional_call(exact, {"weight": weight + delta}, (x.double(),))


def seen_by(layer: nn.Module) -> Tensor:
    if isinstance(layer, nn.Conv2d):
        return torch.randn(2, layer.in_channels, 8, 8)
    if isinstance(layer, nn.GroupNorm):
        return torch.randn(2, layer.num_channels, 8, 8)
    return torch.randn(
        2, 5, layer.in_features if isinstance(layer, nn.Linear) else layer.get_parameter("weight").shape[0]
    )


def _judge(name: str, reader: type[Loader], job: Job, truth: Truth, model: nn.Module) -> Verdict:
    before = weights(model)
    try:
        loader = reader(job, model)
        loader.apply()
        error = max(_off(model.get_submodule(path), *known) for path, known in truth.items())
    except Exception as reason:  # noqa: BLE001 - whatever a peer raises is its answer
        return Verdict(name, reader.name, None, None, _sentence(reason))
    loader.undo()
    return Verdict(name, reader.name, error, _same(weights(model), before))


def _off(layer: nn.Module, x: Tensor, plain: Tensor, right: Tensor) -> float:
    return float((layer(x).double() - right).norm() / (right - plain).norm())


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Under the names that they have without anybody around them."""
    found = {name.replace(".base_layer", ""): tensor for name, tensor in model.named_parameters()}
    ours = {name: tensor for name, tensor in found.items() if not re.search(r"lora_|hada_|lokr_|oft_", name)}
    return {name: tensor.detach().clone() for name, tensor in ours.items()}


def _same(now: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> bool:
    return now.keys() == before.keys() and all(torch.equal(now[name], tensor) for name, tensor in before.items())


def _sentence(reason: Exception) -> str:
    """Its first line, without the layers' names."""
    text = " ".join(str(reason).split()) or type(reason).__name__
    text = re.sub(r"(lora_unet|base_model)[\w.]*(, )?", "", text).strip(" :'\"[]")
    return text[:110]
