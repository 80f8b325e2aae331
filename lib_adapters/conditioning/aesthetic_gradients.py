"""Aesthetic gradients (Gallego 2022, arXiv:2209.12330): a few Adam steps move a text's feature towards an embedding.

The tower trains in the place where it stands, on parameters that are lent to it (patching/lend.py); its own are never
written. One prompt at a time: what one becomes does not depend on what else is in its batch.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lib_adapters.conditioning.trainable_copy import with_trainable_copies
from lib_adapters.errors import AdapterError
from lib_adapters.ops.slerp import slerp
from lib_adapters.prompt.aesthetic_tag import AestheticOptions

ProgressCallback = Callable[[int], None]  # called with the number of steps done; may raise to stop
_FROZEN = ("text_projection", "visual", "logit_scale", "logit_bias")  # CLIP's common space stays where it is


@dataclass(frozen=True)
class TextForward:
    """One prompt at one tower: what is led, and what is wanted of it afterwards."""

    feature: Callable[[], Tensor]  # [1, d], with whatever weights the tower has at that moment
    hidden_states: Callable[[], tuple[Tensor, ...]]  # what conditioning is made of, likewise
    cache_tensors: tuple[Tensor, ...]  # the unchanged states, the projection: by these an answer is known again


@dataclass(frozen=True)
class OptimizedText:
    """The cosine of the text's feature with the embedding, before and after: -1 to 1, the mean over its vectors."""

    hidden_states: tuple[Tensor, ...]  # float32, of the changed tower
    cosine_before: float  # the cosine with the embedding
    cosine_after: float


def optimization_target(vectors: Tensor, text_feature: Tensor | None, options: AestheticOptions) -> Tensor:
    """[n, d] -> unit vectors [n, d], turned towards the unit vector of a text's feature [1, d], or away from it."""
    aim = normalize(vectors.float(), dim=-1)
    if text_feature is None:
        return aim
    towards = normalize(text_feature.to(aim), dim=-1)
    if options.negative:
        towards = normalize(aim - towards, dim=-1)
    return normalize(slerp(aim, towards, options.angle), dim=-1)


def blend(encoded: Tensor, optimized: Tensor, options: AestheticOptions) -> Tensor:
    """[..., d] each: (1 - w) z + w z', or along the arc between the two of each token; in z's own type.

    The web UI's extension took the arc over the tokens' axis, feature by feature. That follows no direction of the text
    space, and its pictures cannot be had again anyway: it compared each token with the one behind it.
    """
    z, other = encoded.float(), optimized.to(encoded.device, torch.float32)
    out = slerp(z, other, options.weight) if options.slerp else torch.lerp(z, other, options.weight)
    return out.to(encoded.dtype)


class AestheticOptimizer:
    """Remembers the last answers. The weights are known by what they make of the prompt, not by where they lie:
    a tensor at the address of a dropped one would pass for it."""

    def __init__(self, max_entries: int = 16) -> None:
        self._max_entries = max_entries
        self._cache: OrderedDict[str, OptimizedText] = OrderedDict()

    def optimize(
        self,
        tower: nn.Module,
        prompt: TextForward,
        target: Tensor,
        options: AestheticOptions,
        progress: ProgressCallback | None = None,
    ) -> OptimizedText:
        """As `steer`, from memory where the same was asked."""
        key = f"{options.steps} {options.lr!r} {_digest((*prompt.cache_tensors, target))}"
        if key not in self._cache:
            self._cache[key] = optimize_text(tower, prompt, target, options, progress)
        self._cache.move_to_end(key)
        while len(self._cache) > self._max_entries:
            self._cache.popitem(last=False)
        return self._cache[key]


def optimize_text(
    text_encoder: nn.Module,
    forward: TextForward,
    target: Tensor,
    options: AestheticOptions,
    progress: ProgressCallback | None = None,
) -> OptimizedText:
    """`target`: unit vectors [n, d]. The tower is bit for bit what it was, whatever happens in between.

    AdapterError where the steps leave all bounds.
    """
    device = next(text_encoder.parameters()).device

    def led(weights: list[nn.Parameter]) -> OptimizedText:
        aim = target.clone().to(device, torch.float32)
        with torch.no_grad():
            before = float(_cosine(forward.feature(), aim))
        _train(weights, lambda: _cosine(forward.feature(), aim), options, progress)
        with torch.no_grad():
            after, states = (
                float(_cosine(forward.feature(), aim)),
                tuple(one.clone() for one in forward.hidden_states()),
            )
        return OptimizedText(states, before, after)

    with _gradients(device):
        steered = with_trainable_copies(text_encoder, lambda name: name.split(".")[0] not in _FROZEN, led)
    if not all(bool(torch.isfinite(one).all()) for one in steered.hidden_states):
        raise AdapterError(
            f"the text left all bounds in {options.steps} steps; take a learning rate below {options.lr:g}"
        )
    return steered


def _train(
    weights: list[nn.Parameter],
    cosine: Callable[[], Tensor],
    options: AestheticOptions,
    progress: ProgressCallback | None,
) -> None:
    adam = torch.optim.Adam(weights, lr=options.lr)
    for step in range(options.steps):
        adam.zero_grad()
        torch.autograd.backward(-cosine())
        adam.step()
        if progress:
            progress(step + 1)


def _cosine(feature: Tensor, aim: Tensor) -> Tensor:
    """The mean over the embedding's vectors."""
    return (normalize(feature.float(), dim=-1) @ aim.T).mean()


@contextmanager
def _gradients(device: torch.device) -> Iterator[None]:
    """Hosts call us without gradients and inside their own autocast."""
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        yield


def _digest(tensors: Iterable[Tensor]) -> str:
    seen = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        seen.update(f"{list(tensor.shape)} {tensor.dtype}".encode())
        seen.update(flat.view(torch.uint8).numpy().tobytes())
    return seen.hexdigest()
