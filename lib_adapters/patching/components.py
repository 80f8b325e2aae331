"""The components of a model that adapters change, held weakly so that an old checkpoint can be freed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from lib_adapters.patching.layers import LayerTable
from lib_adapters.patching.named_modules import named_modules

OnCollected = Callable[["weakref.ref[nn.Module]"], None]


class ModelComponents:
    """One UNet, some text encoders, or both."""

    def __init__(self, unet: nn.Module | None, text_encoders: Sequence[nn.Module], on_collected: OnCollected) -> None:
        """`died` is called when one of them is gone."""
        self._unet = None if unet is None else weakref.ref(unet, on_collected)
        self._text_encoders = [weakref.ref(encoder, on_collected) for encoder in text_encoders]

    def unet(self) -> nn.Module | None:
        """None where there is none, or none any more."""
        return None if self._unet is None else self._unet()

    def text_encoders(self) -> list[nn.Module]:
        """Those that live, in their order."""
        return [encoder for ref in self._text_encoders if (encoder := ref()) is not None]

    def all(self) -> list[nn.Module]:
        """The UNet and the text encoders that live."""
        unet = self.unet()
        return [*([] if unet is None else [unet]), *self.text_encoders()]

    def modules(self) -> Iterator[nn.Module]:
        """Return every module of every root."""
        return (module for root in self.all() for _, module in named_modules(root))

    def layer_table(self) -> LayerTable:
        """Made anew each time: a host may exchange what is inside."""
        return LayerTable.from_model(self.unet(), self.text_encoders())

    def device(self) -> torch.device:
        """Where the factors are wanted: on the UNet's device; a text encoder elsewhere gets its own copy."""
        parameters = (p for root in self.all() for p in root.parameters() if not p.is_meta)
        return next(parameters, torch.empty(0, device="cpu")).device
