"""The plainest definition of a picture: each step, each row by itself, on a model that nothing else was done to.

Adapters are merged with plain numbers for that step and row, and for that text, and are taken out again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from safetensors.torch import load_file, save_file

from lib_adapters import Request, Session, open_adapter
from tests.fake_webui import samplers
from tests.fake_webui.cfg_denoiser import Noise, Steps
from tests.fake_webui.processing import noise_of
from tests.fake_webui.prompt_parser import lengthened
from tests.fake_webui.sd_hijack_clip import SdConditioning


@dataclass(frozen=True)
class Use:
    """One adapter: in the UNet a number for each step, or one for all."""

    adapter: object
    unet: float | Sequence[float] = 1.0
    te: float = 1.0

    def at(self, step):
        return self.unet if isinstance(self.unet, int | float) else self.unet[min(step, len(self.unet) - 1)]


@dataclass(frozen=True)
class Row:
    text: str = ""
    uses: tuple = ()
    weight: float = 1.0


@dataclass(frozen=True)
class Picture:
    parts: tuple
    negative: Row = field(default_factory=Row)


def picture(text="", uses=(), negative=""):
    """Without parts: the same adapters on both sides."""
    return Picture((Row(text, tuple(uses)),), Row(negative, tuple(uses)))


@dataclass(frozen=True)
class Plan:
    """One pass. `models`: the model of each step, or one for all."""

    pictures: Sequence[Picture]
    models: Sequence
    sampler: str = "Euler"
    steps: int = 3
    cfg: float = 2.0
    seed: int = 1
    skipped: frozenset = frozenset()  # runs without the negative side

    def model(self, step):
        return self.models[min(step, len(self.models) - 1)]


def drawn(plan, samples=None, strength=0.7):
    """With `samples` a second pass over them."""
    runs = 0

    def denoise(x, level):
        nonlocal runs
        step = runs // samplers.ORDERS[plan.sampler]
        found = _guided(plan, x, level, step, runs in plan.skipped)
        runs += 1
        return found

    noise = noise_of([plan.seed + n for n in range(len(plan.pictures))])
    start, added = (noise, None) if samples is None else (samples, noise)
    with torch.no_grad():
        name, model = plan.sampler, plan.models[0]
        return samplers.run(name, model, denoise, start, plan.steps, noise=added, strength=strength)


def _guided(plan, x, level, step, skips):
    model = plan.model(step)
    parts = [row for one in plan.pictures for row in one.parts]
    texts = iter(lengthened([_encoded(model, row) for row in parts]))
    found = []
    for n, one in enumerate(plan.pictures):
        here = x[n : n + 1], level[n : n + 1]
        seen = [_row(plan, here, (row, next(texts)), step) for row in one.parts]
        without = seen[0] if skips else _row(plan, here, (one.negative, _encoded(model, one.negative)), step)
        scale = 1.0 if skips else plan.cfg
        rows = zip(one.parts, seen, strict=True)
        found.append(without + sum((with_ - without) * row.weight * scale for row, with_ in rows))
    return torch.cat(found)


def _encoded(model, row):
    with Session(model.unet, [model.clip]) as session:
        session.activate([Request(use.adapter, unet=0.0, te=use.te) for use in row.uses])
        return model.get_learned_conditioning(SdConditioning([row.text]))[0]


def _row(plan, here, row, step):
    model = plan.model(step)
    with Session(model.unet, [model.clip]) as session:
        session.activate([Request(use.adapter, unet=use.at(step), te=0.0) for use in row[0].uses])
        return (Steps if plan.sampler == "DDIM" else Noise)(model)(*here, row[1][None])


def part_of(adapter, wanted, name):
    """A file with only those layers of an adapter."""
    path = adapter.path.with_name(f"{name}.safetensors")
    save_file({key: tensor for key, tensor in load_file(adapter.path).items() if wanted(key)}, path)
    return open_adapter(path)


def seconds(plan, **changes):
    return replace(plan, **changes)


def close(found, wanted):
    scale = max(1.0, float(wanted.abs().max()))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * scale)
