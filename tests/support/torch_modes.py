"""The settings of torch that reach from one test into the next: read, compared and set back."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Modes:
    """The global modes of torch, of this thread where each thread has its own."""

    grad: bool
    inference: bool
    autocast: bool  # on the CPU
    dtype: torch.dtype
    threads: int

    @classmethod
    def now(cls) -> Modes:
        return cls(
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            autocasts(),
            torch.get_default_dtype(),
            torch.get_num_threads(),
        )

    def restore(self) -> None:
        """Set what differs; inference mode has no setter, it ends with the object that began it."""
        if self != (now := Modes.now()):
            torch.set_grad_enabled(self.grad)
            torch.set_default_dtype(self.dtype)
            torch.set_num_threads(self.threads)
            if self.autocast != now.autocast:
                set_autocast(self.autocast)


PER_DEVICE = hasattr(torch, "get_autocast_dtype")  # from torch 2.4 on; the functions before it are deprecated


def autocasts() -> bool:
    return torch.is_autocast_enabled("cpu") if PER_DEVICE else torch.is_autocast_cpu_enabled()


def set_autocast(on: bool) -> None:
    if PER_DEVICE:
        torch.set_autocast_enabled("cpu", on)
    else:
        torch.set_autocast_cpu_enabled(on)
