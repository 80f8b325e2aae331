"""Sampling steps of a pipeline: the Session is updated before each UNet call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from lib_adapters.hosts.diffusers.load_pipeline import Pipeline
from lib_adapters.prompt.schedule import SamplingStep
from lib_adapters.session import Session

OnStep = Callable[[int], None]  # called with the number of steps done
GUIDED_ROWS = (0, 1)  # of a guided batch: the negative prompt's row, and the positive one's


class SamplingSteps:
    """The scheduler's own list of steps, which may be longer than the number asked for (Heun runs twice a step)."""

    def __init__(self, pipe: Pipeline, total_steps: int) -> None:
        self._total_steps = total_steps
        scheduler: Any = pipe.scheduler
        scheduler.set_timesteps(total_steps)
        self._timesteps = [float(t) for t in scheduler.timesteps]
        self._sigma = _noise(scheduler)

    def sampling_step(self, model_call: int) -> SamplingStep:
        """Before the run of this number; the last one again behind the end."""
        runs = len(self._timesteps)
        timestep = self._timesteps[min(model_call, runs - 1)]
        return SamplingStep(
            min(model_call, runs - 1) * self._total_steps // runs,
            self._total_steps,
            self._sigma(timestep),
            timestep,
            runs,
        )

    def callback(self, session: Session, rows: Sequence[int] | None, on_step: OnStep | None) -> Any:
        """For `callback_on_step_end`."""

        def after_step(pipe: object, step: int, timestep: object, kwargs: dict[str, Any]) -> dict[str, Any]:
            session.set_step(self.sampling_step(step + 1), rows)
            if on_step:
                on_step(min(step + 1, self._total_steps))  # some schedulers take one more than they were asked for
            return kwargs

        return after_step


def _noise(scheduler: Any) -> Callable[[float], float | None]:
    """Timestep -> sigma, also between two; nothing is known of schedulers that are not for diffusion's own noise."""
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if not isinstance(alphas, torch.Tensor):
        return lambda timestep: None
    known: list[float] = ((1 - alphas.double()) / alphas.double()).sqrt().tolist()

    def sigma(timestep: float) -> float:
        place = min(len(known) - 1.0, max(0.0, timestep))
        low, share = int(place), place % 1
        return known[low] if not share else known[low] ** (1 - share) * known[low + 1] ** share

    return sigma
