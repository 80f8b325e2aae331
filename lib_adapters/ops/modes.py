"""Modes of torch that code which keeps tensors has to set for itself, because callers come with modes of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def ordinary() -> Iterator[None]:
    """Tensors made inside are ordinary ones without a graph; a context manager and a decorator.

    A tensor made in a caller's inference mode can never be written outside of it, nor be kept for a backward pass.
    """
    with torch.inference_mode(False), torch.no_grad():  # in this order: the first one switches gradients on
        yield


@contextmanager
def exact() -> Iterator[None]:
    """`ordinary`, and float32 stays float32: the caller's autocast is off."""
    with ExitStack() as stack:
        stack.enter_context(ordinary())
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield
