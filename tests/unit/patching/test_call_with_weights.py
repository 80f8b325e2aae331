"""A call with W' in the place of the weights: in which memory, for which weights, and all of it back afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lib_adapters.patching import weight_substitution
from lib_adapters.patching.layers import LayerTable
from lib_adapters.patching.patch import ParamPatches
from lib_adapters.patching.weight_substitution import BufferPool, call_with_weights, fits_dtype, merge_param
from tests.unit.patching.test_algorithms_in_session import EXAMPLES
from tests.unit.patching.test_merge import patch


def nothing(_):
    return None


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return nn.Linear(8, 6, bias=False).requires_grad_(False)


def target_of(layer, name="weight", *patches):
    slot = getattr(LayerTable.from_model(nn.ModuleDict({"conv_in": layer}), []).unet["conv_in"], name)
    return ParamPatches(slot, list(patches))


def test_memory_is_lent_once_and_again_after_its_call():
    scratch, base = BufferPool(), torch.zeros(6, 8)
    with torch.no_grad():
        with scratch.borrow() as lend:
            one, two = lend(base), lend(base.bfloat16())
            assert (one.shape, one.dtype, two.shape, two.dtype) == ((6, 8), torch.float32, (6, 8), torch.bfloat16)
            with scratch.borrow() as inner:
                places = {lend(base).data_ptr(), inner(base).data_ptr(), one.data_ptr(), two.data_ptr()}
            assert len(places) == 4
        with scratch.borrow() as lend:
            again = {lend(base).data_ptr() for _ in range(4)}
            assert len(again & places) >= 3  # the smallest had to grow
        with scratch.borrow() as lend:
            assert lend(base.bfloat16()).shape == (6, 8)  # of more than it needs
    scratch.clear()
    assert not scratch._free


def test_what_is_lent_comes_back_whatever_is_raised():
    scratch = BufferPool()

    def broken():
        with torch.no_grad(), scratch.borrow() as lend:
            lend(torch.zeros(2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert len(scratch._free) == 1


def test_nothing_is_lent_where_it_must_outlive_the_call_or_cannot_be_like_the_weight():
    scratch, base = BufferPool(), torch.zeros(6, 8)
    with torch.enable_grad(), scratch.borrow() as lend:
        assert lend(base) is None
    with torch.no_grad(), scratch.borrow() as lend:
        assert lend(base.mT) is None
        assert lend(base.to("meta")) is None
        assert lend(base) is not None


@pytest.mark.parametrize(
    ("around", "free"),
    [(torch.no_grad, True), (torch.enable_grad, False), (lambda: torch.autocast("cpu", torch.bfloat16), False)],
    ids=["no_grad", "enable_grad", "autocast"],
)
def test_which_weights_a_call_can_hold(around, free):
    base, x = torch.zeros(2, 2), torch.zeros(1, 2)
    with torch.no_grad(), around():
        assert [fits_dtype(base.to(dtype), x) for dtype in weight_substitution.FLOATS] == [free] * 3
        assert not fits_dtype(base.to(torch.float8_e4m3fn), x)
        assert not fits_dtype(base.to(torch.float64), x)
        assert not fits_dtype(base, x.to("meta"))
        assert not fits_dtype(None, x)


def test_older_releases_of_torch_are_asked_by_the_device(monkeypatch):
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda: True)
    monkeypatch.setattr(torch, "is_autocast_cpu_enabled", lambda: False)
    assert not weight_substitution._casts(torch.device("cpu"))
    assert weight_substitution._casts(torch.device("cuda"))


@pytest.mark.parametrize("fails", [False, True])
def test_all_weights_hold_afterwards_what_they_held(layer, fails):
    model = nn.ModuleDict({"inner": layer, "norm": nn.LayerNorm(6)})
    own = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    made = [
        ("inner", "weight", torch.ones(6, 8)),
        ("norm", "bias", torch.full((6,), 3.0)),
        ("inner", "bias", torch.ones(6)),
    ]

    def call():
        if fails:
            raise KeyboardInterrupt
        return model["norm"].bias.tolist(), model["inner"](torch.ones(8)).tolist()

    if fails:
        with pytest.raises(KeyboardInterrupt):
            call_with_weights(model, made, call)
    else:
        assert call_with_weights(model, made, call) == (([3.0] * 6, [9.0] * 6), None)
    assert {name: parameter.data_ptr() for name, parameter in model.named_parameters()} == own
    assert layer.bias is None


def test_a_bias_for_the_layer_itself_is_handed_back(layer):
    bias = torch.ones(6)
    found, given = call_with_weights(layer, [("", "weight", torch.ones(6, 8)), ("", "bias", bias)], lambda: layer.bias)
    assert found is None
    assert given is bias


def test_a_bias_for_anything_else_is_put_there(layer):
    """Only of W·x + b is it known where b belongs."""
    bias, norm, outer = torch.ones(6), nn.LayerNorm(6), nn.Linear(2, 2)
    norm._parameters["bias"] = None
    outer.add_module("inner", layer)
    for module, path, owner in ((norm, "", norm), (outer, "inner", layer)):
        found, given = call_with_weights(module, [(path, "bias", bias)], lambda owner=owner: owner.bias.data_ptr())
        assert (found, given) == (bias.data_ptr(), None)
        assert owner.bias is None


def test_an_interruption_while_they_go_back_does_not_keep_them(layer, monkeypatch):
    own, calls, original = layer.weight.data_ptr(), [], weight_substitution._give_back

    def interrupted(moved):
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        original(moved)

    monkeypatch.setattr(weight_substitution, "_give_back", interrupted)
    with pytest.raises(KeyboardInterrupt):
        call_with_weights(layer, [("", "weight", torch.ones(6, 8))], lambda: None)
    assert layer.weight.data_ptr() == own


def test_what_is_there_for_one_run(layer):
    """The weight and a delta of it; of a more exact weight, its delta on whatever somebody else has put there."""
    one, exact = patch("glora"), torch.randn(6, 8)
    delta = one.algorithm.delta_at(layer.weight.data, one.strength)
    target = target_of(layer, "weight", one)
    torch.testing.assert_close(merge_param(layer, target, None, nothing), layer.weight + delta)
    torch.testing.assert_close(merge_param(layer, target, lambda *_: None, nothing), layer.weight + delta)
    into = torch.zeros(6, 8)
    assert merge_param(layer, target, None, lambda _: into) is into
    wanted = layer.weight + one.algorithm.delta_at(exact, one.strength)
    torch.testing.assert_close(merge_param(layer, target, lambda *_: exact.double(), nothing), wanted)
    layer.bfloat16()
    found = merge_param(layer, target, lambda *_: exact, nothing)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, rtol=0.02, atol=0.02)


def test_a_bias_that_is_there_or_not(layer):
    request = EXAMPLES["full-bias"].read()
    some = patch("full-bias", strength=1.0)
    of_bias = type(some)(some.key, some.view, request, 1.0, is_bias=True)
    delta = request.bias_delta(torch.zeros(6))
    assert torch.equal(merge_param(layer, target_of(layer, "bias", of_bias), None, nothing), delta)
    layer.bias = nn.Parameter(torch.ones(6))
    assert torch.equal(merge_param(layer, target_of(layer, "bias", of_bias), None, nothing), delta + 1)
