"""A checkpoint as the host holds it: a real UNet and a real CLIP, under the host's own names, reloadable in place."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn

from tests.fake_webui.sd_hijack_clip import Embedder
from tests.support import tiny_models as real


class Holder(nn.Module):
    """Any of the host's wrappers: named children, nothing else."""

    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)


class Checkpoint(nn.Module):
    def __init__(self, unet, clip):
        super().__init__()
        self.model = Holder(diffusion_model=unet)
        self.cond_stage_model = Embedder(Holder(transformer=clip))
        self.sd_checkpoint_info = SimpleNamespace(title="first")
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        self.alphas_cumprod = (1 - betas).cumprod(0)
        self._named_for_builtin()

    def _named_for_builtin(self):
        for root in (self.model, self.cond_stage_model.wrapped):
            for name, module in root.named_modules():
                module.network_layer_name = name.replace(".", "_")

    @property
    def unet(self):
        return self.model.diffusion_model

    @property
    def clip(self):
        return self.cond_stage_model.wrapped.transformer

    def text(self, prompts=("",)):
        return self.cond_stage_model(prompts)

    def get_learned_conditioning(self, c):
        return self.cond_stage_model(c)

    def apply_model(self, x, timesteps, cond):
        return self.unet(x, timesteps, context=cond)

    def denoise(self, cond):
        torch.manual_seed(3)
        return self.unet(torch.randn(1, 4, 8, 8), torch.tensor([7]), context=cond)

    def rehijack(self):
        """The text side gets new wrappers around the same tower."""
        self.cond_stage_model = Embedder(self.cond_stage_model.wrapped)

    def load_in_place(self, state, info):
        """Another checkpoint of the same kind: the same Parameters, overwritten; keys that are missing stay."""
        self.rehijack()
        self.load_state_dict(state, strict=False)
        for module in self.modules():  # the built-in forgets what it kept of a layer that is loaded
            module.__dict__.pop("network_weights_backup", None)
            module.__dict__.pop("network_current_names", None)
        self.sd_checkpoint_info = info


def checkpoint() -> Checkpoint:
    return Checkpoint(real.ldm_unet(), real.clip())


def other_state(model: nn.Module, seed: int = 11) -> dict:
    """Another checkpoint's weights for the same model."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor + 0.02 * torch.randn(tensor.shape, generator=generator).to(tensor)
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point()
    }
