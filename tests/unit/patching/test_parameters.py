"""What a parameter holds, where it is pointed, and how what it held is known again."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from lib_adapters.patching.checksum import sample_values, version_of
from lib_adapters.patching.components import ModelComponents
from lib_adapters.patching.layers import ParamRef
from lib_adapters.patching.parameters import assign, current_tensor, zero_bias
from lib_adapters.patching.snapshot import ParameterSnapshot


def slot_of(module, name="weight"):
    ref = weakref.ref(module)
    return ParamRef(ref, name, "conv_in", ref, ref)


def record_of(module, pristine, name="weight"):
    """Of a parameter as it is now."""
    parameter = module._parameters[name]
    known = (
        weakref.ref(parameter),
        parameter.data_ptr(),
        sample_values([parameter.data.clone()])[0],
        version_of(parameter),
    )
    return ParameterSnapshot(slot_of(module, name), pristine, (), *known)


def test_a_parameter_is_pointed_elsewhere_and_stays_the_same_object():
    layer, tensor = nn.Linear(3, 2), torch.ones(2, 3)
    parameter = layer.weight
    assign(layer, "weight", tensor)
    assert layer.weight is parameter
    assert current_tensor(layer, "weight").data_ptr() == tensor.data_ptr()


def test_a_bias_is_lent_and_taken_away_again():
    layer, bias = nn.Linear(3, 2, bias=False), torch.ones(2)
    assert current_tensor(layer, "bias") is None
    assert torch.equal(zero_bias(layer, "bias"), torch.zeros(2))
    assign(layer, "bias", bias)
    assert (layer.bias.requires_grad, torch.equal(layer.bias, bias)) == (False, True)
    assign(layer, "bias", None)
    assert layer.bias is None


def test_a_parameter_made_in_inference_mode_is_exchanged():
    with torch.inference_mode():
        layer = nn.Linear(3, 2)
    assign(layer, "weight", torch.ones(2, 3))
    assert torch.equal(layer.weight, torch.ones(2, 3))
    assert not layer.weight.requires_grad


def test_nothing_is_held_by_nothing():
    assert current_tensor(None, "weight") is None
    assert current_tensor(nn.Linear(3, 2), "other") is None


def test_a_pristine_bias_is_of_the_weights_kind():
    layer = nn.Linear(3, 2, bias=False).bfloat16().to("meta")
    bias = zero_bias(layer, "bias")
    assert (bias.shape, bias.dtype, bias.device.type) == ((2,), torch.bfloat16, "meta")
    attention = nn.MultiheadAttention(4, 2, bias=False)
    assert zero_bias(attention, "in_proj_bias").shape == (12,)
    with pytest.raises(RuntimeError, match="LayerNorm has no weight to take a bias for"):
        zero_bias(nn.LayerNorm(3, elementwise_affine=False), "bias")


def test_a_record_knows_its_own_in_place_moved_and_cast():
    layer = nn.Linear(8, 8)
    record, ours = record_of(layer, layer.weight.data.clone()), layer.weight.data  # nobody else gets its memory
    assert record.is_in_place()
    assert record.is_live()
    layer.weight.data = ours.clone()
    assert (record.is_in_place(), record.is_live()) == (False, True)
    layer.half()
    assert (record.is_in_place(), record.is_live()) == (False, True)
    layer.weight.data = layer.weight.data * 2
    assert (record.is_in_place(), record.is_live()) == (False, False)


def test_a_record_takes_nothing_else_for_its_own():
    layer = nn.Linear(8, 8)
    record, kept = record_of(layer, None), layer.weight
    layer.weight = nn.Parameter(layer.weight.data)  # another Parameter in the same memory
    assert (record.is_in_place(), record.is_live()) == (False, True)
    layer.weight = kept
    assert record.is_in_place()
    layer.to("meta")
    assert (record.is_in_place(), record.is_live()) == (False, False)
    layer._parameters["weight"] = None
    assert (record.is_in_place(), record.is_live(), record.holds_our_values()) == (False, False, False)
    alive = weakref.ref(kept)
    del kept
    gc.collect()
    assert (alive(), record.is_in_place()) == (None, False)


def test_what_is_written_into_it_where_it_is_is_still_its_own():
    layer = nn.Linear(8, 8)
    record = record_of(layer, None)
    layer.weight.data.mul_(2)
    assert (record.is_in_place(), record.is_live()) == (True, True)


def test_home_is_where_and_as_the_host_keeps_it_now():
    layer = nn.Linear(8, 8)
    pristine = layer.weight.data.clone()
    record = record_of(layer, pristine)
    assert record.original_on_device() is pristine
    layer.bfloat16()
    assert torch.equal(record.original_on_device(), pristine.bfloat16())
    layer.to("meta")
    assert (record.original_on_device().device.type, record.original_on_device().dtype) == ("meta", torch.bfloat16)
    layer._parameters["weight"] = None
    assert record.original_on_device() is pristine
    assert record_of(layer, None, "bias").original_on_device() is None


def test_roots_are_those_that_live():
    unet, encoders, died = nn.Linear(1, 1), [nn.Linear(2, 2), nn.Linear(3, 3)], []
    roots = ModelComponents(unet, encoders, died.append)
    assert (roots.unet(), roots.text_encoders(), roots.all()) == (unet, encoders, [unet, *encoders])
    del encoders[0]
    gc.collect()
    assert (roots.text_encoders(), roots.all(), len(died)) == (encoders, [unet, *encoders], 1)
    del unet
    gc.collect()
    assert (roots.unet(), roots.all(), len(died)) == (None, encoders, 2)
    assert ModelComponents(None, (), died.append).all() == []


def test_the_device_is_that_of_the_first_weight_that_is_loaded():
    half = nn.Sequential(nn.Linear(1, 1, device="meta"), nn.Linear(1, 1))
    assert ModelComponents(half, (), print).device() == torch.device("cpu")
    assert ModelComponents(None, [nn.Linear(1, 1, device="meta")], print).device() == torch.device("cpu")
    assert ModelComponents(None, (), print).device() == torch.device("cpu")
