"""Context managers that make results independent of the caller's torch modes (inference mode, autograd, autocast)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def plain_tensors() -> Iterator[None]:
    """Create normal tensors without an autograd graph. Usable as a context manager and as a decorator.

    Needed because a tensor created in the caller's inference mode cannot be modified in place outside of it, nor be
    saved for a backward pass.
    """
    with torch.inference_mode(False), torch.no_grad():  # in this order, because the first one enables gradients
        yield


@contextmanager
def float32_math() -> Iterator[None]:
    """As `ordinary`, and disable the caller's autocast so that float32 is computed in float32."""
    with ExitStack() as stack:
        stack.enter_context(plain_tensors())
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield
