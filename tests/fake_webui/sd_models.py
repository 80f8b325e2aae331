"""The host changes its model: in the same tensors, in a new object, or to one that is in memory already."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch

from tests.fake_webui import extra_networks
from tests.fake_webui.checkpoint import checkpoint, other_state


@dataclass(frozen=True)
class Info:
    title: str
    config: str = "v1"
    seed: int = 0  # 0: the weights that `checkpoint()` has

    def state(self):
        fresh = checkpoint()
        changed = other_state(fresh, self.seed) if self.seed else {}
        return {**fresh.state_dict(), **changed}

    def made(self):
        model = checkpoint()
        model.load_in_place(self.state(), self)
        return model


FIRST = Info("first")


class ModelData(SimpleNamespace):
    def set_sd_model(self, v, already_loaded=False):
        self.sd_model = v
        self.loaded_sd_models[:] = [v, *(one for one in self.loaded_sd_models if one is not v)]


class Bare:
    """`StableDiffusionProcessingTxt2Img()`"""

    all_prompts = all_negative_prompts = prompts = scripts = extra_network_data = hr_extra_network_data = None
    is_hr_pass, iteration, batch_size, seed, steps = False, 0, 1, -1, 50


class Loader:
    """`limit`: how many models are kept in memory."""

    def __init__(self, host):
        self.host, self.chosen, self.limit = host, FIRST, 1

    @property
    def data(self):
        return self.host.sd_models.model_data

    def keep(self, info):
        """This one is in memory already."""
        self.limit = 2
        self.data.loaded_sd_models.append(model := info.made())
        return model

    def reload_model_weights(self, sd_model=None, info=None, forced_reload=False):
        info, model = info or self.chosen, self.data.sd_model
        if model.sd_checkpoint_info == info:
            return model
        there = next((one for one in self.data.loaded_sd_models if one.sd_checkpoint_info == info), None)
        if there is not None:
            self.data.set_sd_model(there, already_loaded=True)
        elif len(self.data.loaded_sd_models) < self.limit or model.sd_checkpoint_info.config != info.config:
            if len(self.data.loaded_sd_models) >= self.limit:
                self.data.loaded_sd_models.remove(model)
                model.to("meta")
            self.data.sd_model = None
            self.load_model(info)
        else:
            model.load_in_place(info.state(), info)
        self.host.model = self.data.sd_model
        return self.data.sd_model

    def load_model(self, checkpoint_info=None, already_loaded_state_dict=None):
        model = checkpoint_info.made()
        self.data.set_sd_model(model)
        with torch.no_grad():
            extra_networks.activate(Bare(), {})
            model.cond_stage_model_empty_prompt = model.get_learned_conditioning([""])
        return model

    def apply_refiner(self, cfg_denoiser, sigma=None):
        p = cfg_denoiser.p
        info = p.refiner_checkpoint_info
        if p.refiner_switch_at is not None and cfg_denoiser.step / cfg_denoiser.total_steps < p.refiner_switch_at:
            return False
        if info is None or self.data.sd_model.sd_checkpoint_info == info:
            return False
        self.reload_model_weights(info=info)
        p.setup_conds()
        cfg_denoiser.update_inner_model()
        return True
