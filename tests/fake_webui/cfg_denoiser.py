"""The denoisers: rows in the host's order, its callback, and the many ways in which it runs the UNet."""

from __future__ import annotations

import torch
from torch import nn

from tests.fake_webui.prompt_parser import reconstruct_cond_batch, reconstruct_multicond_batch


class InterruptedException(BaseException):
    pass


class CFGDenoiserParams:
    def __init__(  # noqa: PLR0917
        self, x, image_cond, sigma, sampling_step, total_sampling_steps, text_cond, text_uncond, denoiser=None
    ):
        self.x, self.image_cond, self.sigma = x, image_cond, sigma
        self.sampling_step, self.total_sampling_steps = sampling_step, total_sampling_steps
        self.text_cond, self.text_uncond = text_cond, text_uncond
        self.denoiser = denoiser


class OldCFGDenoiserParams(CFGDenoiserParams):
    """Up to 1.7."""

    def __init__(  # noqa: PLR0917
        self, x, image_cond, sigma, sampling_step, total_sampling_steps, text_cond, text_uncond
    ):
        super().__init__(x, image_cond, sigma, sampling_step, total_sampling_steps, text_cond, text_uncond)
        del self.denoiser


def params_of(release):
    return OldCFGDenoiserParams if release.startswith(("1.6", "1.7")) else CFGDenoiserParams


class Noise(nn.Module):
    """k-diffusion's view of a model: takes a sigma, gives the picture without noise."""

    def __init__(self, model):
        super().__init__()
        self.inner_model = model
        self.register_buffer("sigmas", ((1 - model.alphas_cumprod) / model.alphas_cumprod) ** 0.5)

    def get_sigmas(self, n):
        places = torch.linspace(len(self.sigmas) - 1, 0, n).round().long()
        return torch.cat([self.sigmas[places], self.sigmas.new_zeros(1)])

    def forward(self, x, sigma, cond):
        timestep = (self.sigmas[:, None] - sigma).abs().argmin(0)
        level = sigma[:, None, None, None]
        return x - level * self.inner_model.apply_model(x / (level**2 + 1) ** 0.5, timestep, cond)


class Steps(nn.Module):
    """The host's for samplers that count in timesteps: gives the noise itself."""

    def __init__(self, model):
        super().__init__()
        self.inner_model = model

    def forward(self, x, timesteps, cond):
        return self.inner_model.apply_model(x, timesteps, cond)


def combined(x_out, conds_list, size, scale):
    """Guidance; the last rows are the negative ones."""
    without = x_out[-size:]
    found = without.clone()
    for picture, conds in enumerate(conds_list):
        for row, weight in conds:
            found[picture] += (x_out[row] - without[picture]) * (weight * scale)
    return found


class CFGDenoiser(nn.Module):
    wrap = Noise

    def __init__(self, sampler):
        super().__init__()
        self.steps = self.total_steps = self.p = self.model_wrap = None
        self.step = 0
        self.sampler = sampler

    @property
    def inner_model(self):
        if self.model_wrap is None:
            self.model_wrap = self.wrap(self.sampler.host.model)
        return self.model_wrap

    def update_inner_model(self):
        self.model_wrap = None
        cond, uncond = self.p.get_conds()
        self.sampler.sampler_extra_args |= {"cond": cond, "uncond": uncond}

    def forward(self, x, sigma, uncond, cond, cond_scale, s_min_uncond, image_cond):  # noqa: PLR0917
        host = self.sampler.host
        if host.shared.state.interrupted or host.shared.state.skipped:
            raise InterruptedException
        if host.loader.apply_refiner(self, sigma):
            cond, uncond = self.sampler.sampler_extra_args["cond"], self.sampler.sampler_extra_args["uncond"]
        conds_list, tensor = reconstruct_multicond_batch(cond, self.step)
        uncond = reconstruct_cond_batch(uncond, self.step)
        repeats = torch.tensor([len(conds) for conds in conds_list])
        x_in = torch.cat([x.repeat_interleave(repeats, 0), x])
        sigma_in = torch.cat([sigma.repeat_interleave(repeats, 0), sigma])
        state = host.shared.state
        given = (x_in, image_cond, sigma_in, state.sampling_step, state.sampling_steps, tensor, uncond)
        params = host.denoiser_params(*given, self)
        host.swallowing("cfg_denoiser", params)
        x_in, sigma_in, tensor, uncond = params.x, params.sigma, params.text_cond, params.text_uncond
        skip = self._skips(sigma, s_min_uncond, host.shared.opts)
        if skip:
            x_in, sigma_in = x_in[: -len(x)], sigma_in[: -len(x)]
        x_out = self._run(x_in, sigma_in, (tensor, uncond), len(x), skip)
        if skip:
            x_out = torch.cat([x_out, torch.stack([x_out[conds[0][0]] for conds in conds_list])])
        self.step += 1
        self.sampler.last_latent = combined(x_out, conds_list, len(x), 1.0 if skip else cond_scale)
        return self.sampler.last_latent

    def _skips(self, sigma, s_min_uncond, opts):
        early = opts.skip_early_cond != 0 and self.step / self.total_steps <= opts.skip_early_cond
        return early or ((self.step % 2 or opts.s_min_uncond_all) and s_min_uncond > 0 and sigma[0] < s_min_uncond)

    def _run(self, x, sigma, texts, size, skip):
        """All rows at once, or a few after the other."""
        tensor, uncond = texts
        whole = self.sampler.host.shared.opts.batch_cond_uncond
        if tensor.shape[1] == uncond.shape[1] or skip:
            rows = tensor if skip else torch.cat([tensor, uncond])
            cuts = [len(rows)] if whole else [size] * -(-len(rows) // size)
            return self._pieces(x, sigma, rows.split([*cuts[:-1], len(rows) - sum(cuts[:-1])]))
        return self._pieces(x, sigma, [*tensor.split(size * 2 if whole else size), uncond])

    def _pieces(self, x, sigma, texts):
        found, start = [], 0
        for rows in texts:
            part = slice(start, start + len(rows))
            found.append(self.inner_model(x[part], sigma[part], rows))
            start += len(rows)
        return torch.cat(found)


class CFGDenoiserTimesteps(CFGDenoiser):
    wrap = Steps

    def __init__(self, sampler):
        super().__init__(sampler)
        self.alphas = sampler.host.model.alphas_cumprod
