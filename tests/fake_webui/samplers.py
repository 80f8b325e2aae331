"""Three samplers of the host's kinds: one run a step, two runs a step, and timesteps in the place of noise."""

from __future__ import annotations

import torch

from tests.fake_webui.cfg_denoiser import CFGDenoiser, CFGDenoiserTimesteps, InterruptedException, Noise


def euler(model, x, sigmas, callback):
    ones = x.new_ones(len(x))
    for i in range(len(sigmas) - 1):
        slope = (x - model(x, sigmas[i] * ones)) / sigmas[i]
        callback({"i": i})
        x = x + slope * (sigmas[i + 1] - sigmas[i])
    return x


def heun(model, x, sigmas, callback):
    """Its last step has one run only."""
    ones = x.new_ones(len(x))
    for i in range(len(sigmas) - 1):
        slope = (x - model(x, sigmas[i] * ones)) / sigmas[i]
        callback({"i": i})
        step = sigmas[i + 1] - sigmas[i]
        if sigmas[i + 1] != 0:
            guess = x + slope * step
            slope = (slope + (guess - model(guess, sigmas[i + 1] * ones)) / sigmas[i + 1]) / 2
        x = x + slope * step
    return x


def ddim(model, x, timesteps, callback, alphas):
    ones = x.new_ones(len(x))
    for i in range(len(timesteps) - 1):
        now, then = timesteps[-1 - i], timesteps[-2 - i]
        noise = model(x, now * ones)
        clean = (x - (1 - alphas[now]).sqrt() * noise) / alphas[now].sqrt()
        x = alphas[then].sqrt() * clean + (1 - alphas[then]).sqrt() * noise
        callback({"i": i})
    return x


ORDERS = {"Euler": 1, "Heun": 2, "DDIM": 1}


def shortened(steps, strength):
    """Steps of the whole way, and how many of them a second pass of `steps` takes: the host's count."""
    return int(steps / min(strength, 0.999)), steps - 1


def run(name, model, denoise, x, steps, *, noise=None, strength=0.0, callback=lambda _: None):
    """`denoise(x, noise or timestep)`; with `noise` a second pass over the picture x."""
    alphas = model.alphas_cumprod
    total, taken = (steps, steps) if noise is None else shortened(steps, strength)
    if name == "DDIM":
        timesteps = (torch.arange(0, 1000, 1000 // total) + 1).clip(0, 999)
        if noise is not None:
            first = alphas[timesteps[taken]]
            x, timesteps = x * first.sqrt() + noise * (1 - first).sqrt(), timesteps[:taken]
        return ddim(denoise, x, timesteps, callback, alphas)
    sigmas = Noise(model).get_sigmas(total)
    if noise is not None:
        sigmas = sigmas[total - taken - 1 :]
    x = x * sigmas[0] if noise is None else x + noise * sigmas[0]
    return {"Euler": euler, "Heun": heun}[name](denoise, x, sigmas, callback)


class Sampler:
    """The host's, of whichever kind."""

    def __init__(self, host, name):
        self.host, self.name = host, name
        self.stop_at = self.last_latent = None
        self.model_wrap_cfg = (CFGDenoiserTimesteps if name == "DDIM" else CFGDenoiser)(self)
        self.sampler_extra_args: dict = {}

    def callback_state(self, d):
        """The number of the step is known only after the step."""
        self.host.shared.state.sampling_step = d["i"]
        if d["i"] == self.host.interrupt_after:
            self.host.shared.state.interrupt()

    def launch_sampling(self, steps, func):
        state = self.host.shared.state
        self.model_wrap_cfg.steps = state.sampling_steps = steps
        self.model_wrap_cfg.total_steps = steps * ORDERS[self.name]
        state.sampling_step = 0
        try:
            return func()
        except InterruptedException:
            return self.last_latent

    def sample(self, p, x, conds, steps, *, noise=None):
        cond, uncond = conds
        self.last_latent = x
        self.model_wrap_cfg.p, self.model_wrap_cfg.step = p, 0
        self.sampler_extra_args = {
            "cond": cond,
            "uncond": uncond,
            "image_cond": x.new_zeros(len(x), 5, 1, 1),
            "cond_scale": p.cfg_scale,
            "s_min_uncond": p.s_min_uncond,
        }

        def denoise(x, level):
            return self.model_wrap_cfg(x, level, **self.sampler_extra_args)

        options = {"noise": noise, "strength": p.denoising_strength, "callback": self.callback_state}
        return self.launch_sampling(steps, lambda: run(self.name, self.host.model, denoise, x, steps, **options))
