"""A whole UNet with random weights, what it is given in one run, and adapters for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.adapter_case import Setting, adapter_file, touched
from benchmarks.model_layers import PLANS
from benchmarks.synthetic_adapters import RECIPES, Recipe
from lib_adapters import open_adapter
from lib_adapters.algorithms.base import Shape
from lib_adapters.files.adapter import Adapter

ROWS, TOKENS = 2, 77  # guidance: one row with the prompt, one without


@dataclass(frozen=True)
class Kind:
    """Some adapters of one algorithm, together on the UNet."""

    recipe: Recipe
    rank: int = 32
    count: int = 1


_LOKR = replace(RECIPES["lokr"], where="all")
KINDS: Mapping[str, Kind] = {
    "lora": Kind(RECIPES["lora"]),
    "locon": Kind(RECIPES["locon"]),
    "lokr": Kind(_LOKR),
    "2 lora": Kind(RECIPES["lora"], count=2),
    "2 locon": Kind(RECIPES["locon"], count=2),
    "2 lokr": Kind(_LOKR, count=2),
    "loha": Kind(RECIPES["loha"], rank=8),
    "oft": Kind(RECIPES["oft"]),
    "dora": Kind(RECIPES["dora-rows"]),
    "ia3": Kind(RECIPES["ia3"]),
    "full": Kind(RECIPES["full"]),
}
Key = tuple[Shape, Shape]  # of the weight and of what the layer looks at


@dataclass(frozen=True)
class BenchModel:
    setting: Setting
    unet: nn.Module
    latent: Tensor
    text: Tensor
    seen: Mapping[str, Shape]  # what each layer looks at in a run

    def call(self) -> None:
        with torch.no_grad():
            self.unet(self.latent, torch.full((ROWS,), 500, device=self.latent.device), self.text)

    def hooks(self) -> None:
        """What is done before a run, without the run."""
        self.unet.__dict__["forward"] = lambda *args: None
        try:
            self.call()
        finally:
            del self.unet.__dict__["forward"]

    def timed(self, work: Callable[[], object]) -> float:
        clock = time.process_time if self.setting.processor_time else time.perf_counter
        self._wait()
        started = clock()
        work()
        self._wait()
        return clock() - started

    def _wait(self) -> None:
        if self.setting.device.type == "cuda":
            torch.cuda.synchronize()

    def alike(self, paths: Sequence[str]) -> dict[Key, list[nn.Module]]:
        """Layers that do the same work."""
        found: dict[Key, list[nn.Module]] = {}
        for path in paths:
            module = self.unet.get_submodule(path)
            found.setdefault((tuple(module.get_parameter("weight").shape), self.seen[path]), []).append(module)
        return found

    def adapters(self, kind: Kind, folder: Path) -> list[Adapter]:
        torch.manual_seed(0)
        shapes = self.touched(kind)
        names = [folder / f"{n}.safetensors" for n in range(kind.count)]
        return [open_adapter(adapter_file(name, kind.recipe, shapes, kind.rank)) for name in names]

    def touched(self, kind: Kind) -> dict[str, Shape]:
        return touched(kind.recipe, self.setting)


def make_bench_model(setting: Setting, size: int) -> BenchModel:
    """`size`: of the latent picture."""
    torch.manual_seed(0)
    latent = noise((ROWS, 4, size, size), setting)
    text = noise((ROWS, TOKENS, PLANS[setting.family].context), setting)
    bare = BenchModel(setting, make_unet(setting), latent, text, {})
    with _watched(bare) as seen:
        bare.call()
    return replace(bare, seen=seen)


def noise(shape: Shape, setting: Setting) -> Tensor:
    return torch.randn(shape, device=setting.device, dtype=setting.dtype)


def make_unet(setting: Setting) -> nn.Module:
    from diffusers import UNet2DConditionModel

    plan = PLANS[setting.family]
    with torch.device("meta"):
        unet: nn.Module = UNet2DConditionModel(block_out_channels=plan.widths, cross_attention_dim=plan.context)
    unet = unet.to(setting.dtype).to_empty(device=setting.device)
    for parameter in unet.parameters():
        nn.init.normal_(parameter, std=0.02)
    return unet.requires_grad_(False).eval()


@contextmanager
def _watched(bench_model: BenchModel) -> Any:
    seen: dict[str, Shape] = {}

    def watch(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, given: seen.update({path: tuple(given[0].shape)})

    modules = bench_model.unet.named_modules()
    layers = [(path, module) for path, module in modules if isinstance(module, nn.Linear | nn.Conv2d)]
    hooks = [module.register_forward_pre_hook(watch(path)) for path, module in layers]
    yield seen
    for hook in hooks:
        hook.remove()
