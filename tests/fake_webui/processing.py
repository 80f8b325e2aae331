"""A whole job in the host's order of calls: batches, two passes, conditionings out of its caches, the sampler."""

from __future__ import annotations

import re

import torch

from tests.fake_webui import extra_networks, prompt_parser
from tests.fake_webui.samplers import ORDERS, Sampler
from tests.fake_webui.sd_hijack_clip import SdConditioning


def noise_of(seeds, size=8):
    return torch.stack([torch.randn(4, size, size, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def strip_comments(text):
    """The host's script "Comments", which is on by default: from a # to the end of its line, on every prompt."""
    return re.sub(r"\n?#[^\n]*\n?", "\n", text)


class Drawing:
    """`StableDiffusionProcessingTxt2Img`; texts are one or a list. `hr_prompt`: "" is the first pass's."""

    def __init__(self, host, prompt, negative_prompt="", **options):
        self.host, self.prompt, self.negative_prompt = host, prompt, negative_prompt
        self.batch_size, self.n_iter, self.seed, self.steps = 1, 1, 1, 3
        self.sampler_name, self.cfg_scale, self.s_min_uncond = "Euler", 2.0, 0.0
        self.enable_hr, self.hr_prompt, self.hr_negative_prompt = False, "", ""
        self.hr_second_pass_steps, self.denoising_strength, self.hr_checkpoint_info = 0, 0.7, None
        self.refiner_checkpoint_info = self.refiner_switch_at = None
        self.disable_extra_networks = self.lowvram = False
        vars(self).update(options)
        self.scripts, self.sampler, self.is_hr_pass, self.iteration = None, None, False, 0
        self.all_prompts = self.all_negative_prompts = self.extra_network_data = self.hr_extra_network_data = None
        self.all_hr_prompts = self.all_hr_negative_prompts = None
        self.cached_c, self.cached_uc, self.cached_hr_c, self.cached_hr_uc = host.caches
        self.extra_generation_params: dict = {}
        self.comments: dict = {}
        self.images: list = []
        self.infotexts: list = []  # of each batch: what its pictures' text has besides the prompt

    def comment(self, text):
        self.comments[text] = 1

    def setup_prompts(self):
        count = self.batch_size * self.n_iter

        def spread(text):
            return list(text) if isinstance(text, list) else [text] * count

        self.all_prompts, self.all_negative_prompts = spread(self.prompt), spread(self.negative_prompt)
        if self.enable_hr:
            self.all_hr_prompts = spread(self.hr_prompt or self.prompt)
            self.all_hr_negative_prompts = spread(self.hr_negative_prompt or self.negative_prompt)

    def cached_params(self, required_prompts, steps, extra_network_data, hires_steps=None, use_old_scheduling=False):
        return required_prompts, steps, hires_steps, self.host.model.sd_checkpoint_info, extra_network_data

    def get_conds_with_caching(  # noqa: PLR0917
        self, function, required_prompts, steps, caches, extra_network_data, hires_steps=None
    ):
        key = self.cached_params(required_prompts, steps, extra_network_data, hires_steps)
        for cache in caches:
            if cache[0] is not None and cache[0] == key:
                return cache[1]
        self.host.encoded += 1
        caches[0][:] = [key, function(self.host.model, required_prompts, steps, hires_steps)]
        return caches[0][1]

    def _conds(self, texts, steps, caches, data, hires_steps=None):
        self.encoded_texts = texts
        prompts, negatives = SdConditioning(texts[0]), SdConditioning(texts[1], is_negative_prompt=True)
        one, many = prompt_parser.get_learned_conditioning, prompt_parser.get_multicond_learned_conditioning
        uncond = self.get_conds_with_caching(one, negatives, steps, caches[1], data, hires_steps)
        return self.get_conds_with_caching(many, prompts, steps, caches[0], data, hires_steps), uncond

    def setup_conds(self):
        if self.is_hr_pass:
            self.hr_c = None
            self.calculate_hr_conds()
            return
        self.firstpass_steps = self.steps * ORDERS[self.sampler_name]
        caches = [self.cached_c], [self.cached_uc]
        texts = self.prompts, self.negative_prompts
        self.c, self.uc = self._conds(texts, self.firstpass_steps, caches, self.extra_network_data)
        self.hr_c = self.hr_uc = None
        if self.enable_hr and self.lowvram:  # before the text encoder leaves the device
            extra_networks.activate(self, self.hr_extra_network_data)
            self.calculate_hr_conds()
            extra_networks.activate(self, self.extra_network_data)

    def calculate_hr_conds(self):
        if self.hr_c is not None:
            return
        caches = [self.cached_hr_c, self.cached_c], [self.cached_hr_uc, self.cached_uc]
        texts, steps = (self.hr_prompts, self.hr_negative_prompts), self.hr_steps * ORDERS[self.sampler_name]
        self.hr_c, self.hr_uc = self._conds(texts, self.firstpass_steps, caches, self.hr_extra_network_data, steps)

    def get_conds(self):
        return (self.hr_c, self.hr_uc) if self.is_hr_pass else (self.c, self.uc)

    @property
    def hr_steps(self):
        return self.hr_second_pass_steps or self.steps

    def of_batch(self, texts):
        return texts[self.iteration * self.batch_size : (self.iteration + 1) * self.batch_size]

    def parse_extra_network_prompts(self):
        self.prompts, self.extra_network_data = extra_networks.parse_prompts(self.prompts)
        if self.enable_hr:
            self.hr_negative_prompts = self.of_batch(self.all_hr_negative_prompts)
            found = extra_networks.parse_prompts(self.of_batch(self.all_hr_prompts))
            self.hr_prompts, self.hr_extra_network_data = found

    def sample(self):
        self.sampler = Sampler(self.host, self.sampler_name)
        samples = self.sampler.sample(self, noise_of(self.seeds), self.get_conds(), self.steps)
        if not self.enable_hr:
            return samples
        if self.hr_checkpoint_info is not None:
            self.host.loader.reload_model_weights(info=self.hr_checkpoint_info)
        if self.host.shared.state.interrupted:
            return samples
        self.is_hr_pass = True
        self.sampler = Sampler(self.host, self.sampler_name)
        self.host.shared.state.nextjob()
        extra_networks.activate(self, self.hr_extra_network_data)
        self.calculate_hr_conds()
        samples = self.sampler.sample(self, samples, self.get_conds(), self.hr_steps, noise=noise_of(self.seeds))
        self.is_hr_pass, self.sampler = False, None
        return samples

    def run(self):
        state = self.host.shared.state
        state.begin("task(x)")
        try:
            return self.process_images()
        finally:
            state.end()

    def process_images(self):
        """Also called by extensions, for a picture of their own inside another job."""
        state = self.host.shared.state
        self.host.loader.reload_model_weights()
        self.setup_prompts()
        for name in ("all_prompts", "all_negative_prompts", "all_hr_prompts", "all_hr_negative_prompts"):
            setattr(self, name, [strip_comments(text) for text in getattr(self, name) or ()] or None)
        self.all_seeds = [self.seed + n for n in range(len(self.all_prompts))]
        for script in self.host.always_on:
            script.process(self)
        with torch.no_grad():
            for number in range(self.n_iter):
                self.iteration = number
                if state.interrupted:
                    break
                self._batch()
        if self.extra_network_data and not self.disable_extra_networks:
            extra_networks.deactivate(self, self.extra_network_data)
        return self

    def _batch(self):
        self.host.loader.reload_model_weights()
        self.prompts, self.negative_prompts = self.of_batch(self.all_prompts), self.of_batch(self.all_negative_prompts)
        self.seeds = self.of_batch(self.all_seeds)
        self.parse_extra_network_prompts()
        if not self.disable_extra_networks:
            extra_networks.activate(self, self.extra_network_data)
        self.setup_conds()
        if self.n_iter > 1:
            self.host.shared.state.job = f"Batch {self.iteration + 1} out of {self.n_iter}"
        self.image = self.sample()
        for script in self.host.always_on:
            if hasattr(script, "postprocess_image"):
                script.postprocess_image(self, self.image)
        self.infotexts.append(dict(self.extra_generation_params))
        self.images += list(self.image)
        self.host.shared.state.nextjob()
        self.prompts, self.negative_prompts = self.of_batch(self.all_prompts), self.of_batch(self.all_negative_prompts)

    @property
    def infotext(self):
        """What is kept of the prompts with the picture: prompt and negative prompt."""
        return self.all_prompts[0], self.all_negative_prompts[0]

    def api_answer(self):
        """`info` as the API sends it: the host's `Processed.js` has no comments."""
        return {
            "prompt": self.all_prompts[0],
            "extra_generation_params": self.extra_generation_params,
            "infotexts": self.infotexts,
        }
