"""Aesthetic gradients (Gallego 2022, arXiv:2209.12330): a few steps of Adam that lead a text's feature to an embedding.

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

Progress = Callable[[int], None]  # called with the number of steps done; may raise to stop
_NOT_TRAINED = ("text_projection", "visual", "logit_scale", "logit_bias")  # CLIP's common space stays where it is


@dataclass(frozen=True)
class Prompt:
    """One prompt at one tower: what is led, and what is wanted of it afterwards."""

    feature: Callable[[], Tensor]  # [1, d], with whatever weights the tower has at that moment
    states: Callable[[], tuple[Tensor, ...]]  # what conditioning is made of, likewise
    seen: tuple[Tensor, ...]  # the unchanged states, the projection: by these an answer is known again


@dataclass(frozen=True)
class Steered:
    """The cosine of the text's feature with the embedding, before and after: -1 to 1, the mean over its vectors."""

    states: tuple[Tensor, ...]  # float32, of the changed tower
    before: float  # the cosine with the embedding
    after: float


def target_of(vectors: Tensor, text: Tensor | None, options: AestheticOptions) -> Tensor:
    """[n, d] -> unit vectors [n, d], turned towards the unit vector of a text's feature [1, d], or away from it."""
    aim = normalize(vectors.float(), dim=-1)
    if text is None:
        return aim
    towards = normalize(text.to(aim), dim=-1)
    if options.negative:
        towards = normalize(aim - towards, dim=-1)
    return normalize(slerp(aim, towards, options.angle), dim=-1)


def mixed(plain: Tensor, changed: Tensor, options: AestheticOptions) -> Tensor:
    """[..., d] each: (1 - w) z + w z', or along the arc between the two of each token; in z's own type.

    The web UI's extension took the arc over the tokens' axis, feature by feature. That follows no direction of the text
    space, and its pictures cannot be had again anyway: it compared each token with the one behind it.
    """
    z, other = plain.float(), changed.to(plain.device, torch.float32)
    out = slerp(z, other, options.weight) if options.slerp else torch.lerp(z, other, options.weight)
    return out.to(plain.dtype)


class Steerer:
    """Remembers the last answers. The weights are known by what they make of the prompt, not by where they lie:
    a tensor at the address of a dropped one would pass for it."""

    def __init__(self, room: int = 16) -> None:
        self._room = room
        self._known: OrderedDict[str, Steered] = OrderedDict()

    def steer(
        self,
        tower: nn.Module,
        prompt: Prompt,
        target: Tensor,
        options: AestheticOptions,
        progress: Progress | None = None,
    ) -> Steered:
        """As `steer`, from memory where the same was asked."""
        key = f"{options.steps} {options.lr!r} {_digest((*prompt.seen, target))}"
        if key not in self._known:
            self._known[key] = steer(tower, prompt, target, options, progress)
        self._known.move_to_end(key)
        while len(self._known) > self._room:
            self._known.popitem(last=False)
        return self._known[key]


def steer(
    tower: nn.Module, prompt: Prompt, target: Tensor, options: AestheticOptions, progress: Progress | None = None
) -> Steered:
    """`target`: unit vectors [n, d]. The tower is bit for bit what it was, whatever happens in between.

    AdapterError where the steps leave all bounds.
    """
    device = next(tower.parameters()).device

    def led(weights: list[nn.Parameter]) -> Steered:
        aim = target.clone().to(device, torch.float32)
        with torch.no_grad():
            before = float(_cosine(prompt.feature(), aim))
        _train(weights, lambda: _cosine(prompt.feature(), aim), options, progress)
        with torch.no_grad():
            after, states = float(_cosine(prompt.feature(), aim)), tuple(one.clone() for one in prompt.states())
        return Steered(states, before, after)

    with _gradients(device):
        steered = with_trainable_copies(tower, lambda name: name.split(".")[0] not in _NOT_TRAINED, led)
    if not all(bool(torch.isfinite(one).all()) for one in steered.states):
        raise AdapterError(
            f"the text left all bounds in {options.steps} steps; take a learning rate below {options.lr:g}"
        )
    return steered


def _train(
    weights: list[nn.Parameter], cosine: Callable[[], Tensor], options: AestheticOptions, progress: Progress | None
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
