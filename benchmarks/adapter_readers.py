"""Everybody who reads adapter files, on a UNet of diffusers: apply, look, take back."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from benchmarks.adapter_case import Case, Setting
from benchmarks.checked_formats import Kind
from benchmarks.peer_implementations import Peft
from lib_adapters import Request, Session, open_adapter
from lib_adapters.algorithms.base import Shape


@dataclass(frozen=True)
class Job:
    """One file for some layers of the UNet."""

    kind: Kind
    file: Path
    shapes: dict[str, Shape]
    setting: Setting


class Refused(Exception):
    """What it cannot read, in one line."""


class Loader:
    name = ""
    package = ""

    def __init__(self, job: Job, unet: nn.Module) -> None:
        self.job, self.unet = job, unet

    def apply(self) -> None:
        raise NotImplementedError

    def undo(self) -> None:
        raise NotImplementedError


class Ours(Loader):
    name, package = "lib_adapters", "lib_adapters"

    def apply(self) -> None:
        self._session = Session(unet=self.unet)
        (report,) = self._session.activate([Request(open_adapter(self.job.file))]).adapters
        if report.error or report.unmatched:
            raise Refused(report.summary())

    def undo(self) -> None:
        self._session.deactivate()


class Beside(Ours):
    """The other way to follow a strength: beside the layers, the weights are left alone."""

    name = "lib_adapters, live"

    def apply(self) -> None:
        self._session = Session(unet=self.unet)
        self._session.activate([Request(open_adapter(self.job.file), mode="live")])


class LycorisMerge(Loader):
    name, package = "LyCORIS, merged", "lycoris"

    def __init__(self, job: Job, unet: nn.Module) -> None:
        super().__init__(job, unet)
        from lycoris import wrapper

        logging.getLogger("LyCORIS").setLevel(logging.CRITICAL)
        wrapper.LycorisNetwork.LORA_PREFIX = "lora_unet"
        tensors = load_file(job.file)
        self._network: Any = wrapper.create_lycoris_from_weights(1.0, "", unet, tensors)[0]
        if len(self._network.loras) != len(job.shapes):
            raise Refused("finds none of the file's layers")

    def apply(self) -> None:
        self._network.onfly_merge(1.0)

    def undo(self) -> None:
        self._network.onfly_restore()


class LycorisForward(LycorisMerge):
    name = "LyCORIS, forward"

    def apply(self) -> None:
        self._network.apply_to()

    def undo(self) -> None:
        self._network.restore()


class PeftMerge(Loader):
    """Its own layers with the file's factors in them: PEFT has no reader for others' files."""

    name, package = "PEFT, by hand", "peft"

    def __init__(self, job: Job, unet: nn.Module) -> None:
        super().__init__(job, unet)
        if not job.kind.peft:
            raise Refused("its layers hold other factors")
        files = job.file, job.file
        self._peft = Peft(Case(job.kind.peft, job.kind.recipe, job.setting, job.shapes, unet, files), unet)

    def apply(self) -> None:
        self._peft.merge()

    def undo(self) -> None:
        self._peft.unmerge()


class Diffusers(Loader):
    name, package = "diffusers", "diffusers"

    def apply(self) -> None:
        from diffusers import DDIMScheduler, StableDiffusionPipeline

        nothing = {"vae": None, "text_encoder": None, "tokenizer": None, "safety_checker": None}
        self._pipe: Any = StableDiffusionPipeline(
            unet=self.unet, scheduler=DDIMScheduler(), feature_extractor=None, requires_safety_checker=False, **nothing
        )
        self._pipe.load_lora_weights(str(self.job.file.parent), weight_name=self.job.file.name)
        if not any("lora_" in name for name, _ in self.unet.named_parameters()):
            raise Refused("applies nothing, without an error")
        self._pipe.fuse_lora()

    def undo(self) -> None:
        self._pipe.unfuse_lora()
        self._pipe.unload_lora_weights()


def loaders() -> Iterator[type[Loader]]:
    every: Iterable[type[Loader]] = (Ours, Beside, LycorisMerge, LycorisForward, PeftMerge, Diffusers)
    return (one for one in every if importlib.util.find_spec(one.package))


def quietly(work: Any) -> Any:
    """Peers warn a lot, and log what they refuse before they raise."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            return work()
        finally:
            logging.disable(logging.NOTSET)
