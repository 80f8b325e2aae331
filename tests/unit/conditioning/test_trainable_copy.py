"""Float32 copies in the place of a module's numbers for a while: trained as wanted, and its own come back untouched."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lib_adapters.conditioning import trainable_copy
from lib_adapters.conditioning.trainable_copy import with_trainable_copies


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(3, 3).half()
        self.again = nn.Linear(3, 3, bias=False)
        self.again.weight = self.line.weight  # tied
        self.register_parameter("count", nn.Parameter(torch.tensor([2, 3]), requires_grad=False))
        self.register_buffer("mask", torch.ones(3, dtype=torch.float16))
        self.register_buffer("ids", torch.arange(3))


def made(inference):
    torch.manual_seed(0)
    with torch.inference_mode(inference):
        root = nn.ModuleDict({"a": Inner(), "b": nn.Linear(3, 3)}).requires_grad_(False)
        root["b"].register_buffer("mask", root["a"].mask)  # shared
    return root


def held(root):
    """Each parameter and buffer itself, and its numbers."""
    parts = [*root.named_parameters(remove_duplicate=False), *root.named_buffers(remove_duplicate=False)]
    return [(name, part, part.detach().clone()) for name, part in parts]


def is_untouched(root, before):
    now = held(root)
    same = [
        (one[0] == two[0], one[1] is two[1], torch.equal(one[2], two[2])) for one, two in zip(before, now, strict=True)
    ]
    return all(map(all, same))


@pytest.mark.parametrize("inference", [False, True])
def test_what_is_wanted_is_trained_on_numbers_that_autograd_can_keep(inference):
    root = made(inference)
    before = held(root)
    numbers, ids = {name: copy for name, _, copy in before}, root["a"].ids

    def work(trained):
        inner, outer = root["a"], root["b"]
        floats = [inner.line.weight, inner.line.bias, outer.weight, outer.bias, inner.mask]
        assert [(one.dtype, one.is_inference()) for one in floats] == [(torch.float32, False)] * 5
        assert [one.requires_grad for one in floats] == [True, True, False, False, False]
        assert inner.again.weight is inner.line.weight
        assert [id(one) for one in trained] == [id(inner.line.weight), id(inner.line.bias)]
        assert torch.equal(inner.line.weight, numbers["a.line.weight"].float())
        assert (inner.ids.tolist(), inner.count.tolist()) == ([0, 1, 2], [2, 3])
        assert (inner.ids.dtype, inner.ids.is_inference()) == (torch.int64, False)
        assert inference or inner.ids is ids  # there is no need of a copy
        assert root["b"].mask.dtype == torch.float32
        (inner.again(torch.ones(3)) * inner.mask * inner.ids).sum().backward()
        for one in (*floats, inner.ids if inference else inner.mask):
            with torch.no_grad():
                one += 1
        return inner.line.weight.grad

    assert with_trainable_copies(root, lambda name: name.startswith("a."), work).any()
    assert is_untouched(root, before)
    assert not any(part.requires_grad for _, part, _ in before)


def test_float32_numbers_are_copied_too():
    """They must not be trained where they are."""
    root = nn.ModuleDict({"b": nn.Linear(3, 3)})
    before = held(root)

    def work(trained):
        with torch.no_grad():
            for one in trained:
                one.zero_()

    with_trainable_copies(root, lambda name: True, work)
    assert is_untouched(root, before)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_whatever_is_raised_the_modules_own_come_back(error):
    root = made(False)
    before = held(root)

    def work(trained):
        raise error

    with pytest.raises(error):
        with_trainable_copies(root, lambda name: True, work)
    assert is_untouched(root, before)


def test_an_interruption_while_they_come_back_does_not_keep_them(monkeypatch):
    root = made(False)
    before, original, calls = held(root), trainable_copy._restore, []

    def interrupted(*given):
        calls.append(given)
        if len(calls) == 1:
            raise KeyboardInterrupt
        original(*given)

    monkeypatch.setattr(trainable_copy, "_restore", interrupted)
    with pytest.raises(KeyboardInterrupt):
        with_trainable_copies(root, lambda name: True, lambda trained: None)
    assert is_untouched(root, before)
