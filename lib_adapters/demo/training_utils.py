"""What every training run here shares: a learning rate that rises and falls, and one line of progress."""

from __future__ import annotations

import math
import sys
import time

import torch


def best_device() -> str:
    """CUDA where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def cosine_rate(optimizer: torch.optim.Optimizer, peak: float, step: int, steps: int) -> None:
    """A short rise, then half a cosine down to nearly nothing."""
    rise = max(steps // 20, 1)
    factor = (step + 1) / rise if step < rise else 0.5 + 0.5 * math.cos(math.pi * (step - rise) / max(steps - rise, 1))
    for group in optimizer.param_groups:
        group["lr"] = peak * group.get("share", 1.0) * max(factor, 0.01)


def report(what: str, step: int, steps: int, loss: torch.Tensor) -> None:
    """Twenty lines per run, on the error stream."""
    if step % max(steps // 20, 1) == 0 or step == steps - 1:
        line = f"{time.strftime('%H:%M:%S')} {what} {step + 1}/{steps} loss {float(loss.detach()):.4f}"
        print(line, file=sys.stderr, flush=True)
