"""The host's samplers as moments: where a picture is when its denoiser is about to run.

The denoiser counts its own runs; samplers of second order run it twice a step, and the host's own number of the step
lags behind. Samplers that count in timesteps (DDIM, PLMS, UniPC) hand over a timestep in the place of the noise.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lib_adapters.prompt.schedule import Moment


def moment_of(params: Any, p: Any) -> Moment:
    """`params`: of the host's callback; `p`: of the job, for releases whose callback has no denoiser."""
    denoiser = getattr(params, "denoiser", None) or getattr(getattr(p, "sampler", None), "model_wrap_cfg", None)
    runs = int(getattr(denoiser, "total_steps", None) or params.total_sampling_steps or 1)
    steps = int(getattr(denoiser, "steps", None) or params.total_sampling_steps or runs)
    run = int(getattr(denoiser, "step", params.sampling_step) or 0)
    sigma, timestep = _noise(params.sigma, denoiser)
    return Moment(min(run * steps // runs, steps - 1), steps, sigma, timestep, runs)


def _noise(given: Any, denoiser: Any) -> tuple[float | None, float | None]:
    """Sigma and timestep, either from the other; None for what cannot be told."""
    value = float(given.flatten()[0]) if isinstance(given, Tensor) and given.numel() else None
    if value is None:
        return None, None
    alphas = getattr(denoiser, "alphas", None)
    if isinstance(alphas, Tensor):
        alpha = float(alphas[min(len(alphas) - 1, max(0, int(value)))])
        return ((1 - alpha) / alpha) ** 0.5 if alpha > 0 else None, value
    return value, _timestep(value, given, getattr(denoiser, "inner_model", None))


def _timestep(sigma: float, given: Tensor, model: Any) -> float | None:
    sigmas = getattr(model, "sigmas", None)
    if not isinstance(sigmas, Tensor) or not len(sigmas):
        return None
    nearest = int((sigmas.to(given.device) - sigma).abs().argmin())
    return nearest * 999 / max(1, len(sigmas) - 1)
