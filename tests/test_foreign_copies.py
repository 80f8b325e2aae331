"""Other code copies, moves and wraps weights while adapters are on them: the model comes back, or it is said."""

from __future__ import annotations

import copy

import accelerate
import pytest
import torch
from files import MAKERS, adapter_for
from models import diffusers_unet
from torch import nn

from lib_adapters import Request, Session
from lib_adapters.prompt.schedule import Moment
from lib_adapters.prompt.schedule_text import read_curve

KINDS = ("LoRA", "Full", "OFT")
MODES = ("merged", "live")


def tiny():
    blocks = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 4}
    kinds = {"down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D")}
    return diffusers_unet(**blocks, **kinds, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))


@pytest.fixture
def unet():
    return tiny()


@pytest.fixture(params=KINDS)
def request_of(request, tmp_path):
    """All layers of one file; "Full" lends biases to layers that have none."""
    return Request(adapter_for(tiny(), tmp_path / f"{request.param}.safetensors", MAKERS[request.param]), unet=0.7)


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def hooks(model):
    """Ours; some libraries leave a `forward` of their own on modules for good."""
    return sum(len(m._forward_pre_hooks) + len(m._load_state_dict_pre_hooks) for m in model.modules())


def drawn(unet):
    generator = torch.Generator().manual_seed(3)
    x, text = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 5, 24, generator=generator)
    with torch.no_grad():
        return unet(x, 7, text, return_dict=False)[0]


def close(a, b):
    return torch.allclose(a, b, rtol=1e-3, atol=1e-4)


def wanted(request, mode="merged"):
    """What the model draws without and with the adapter."""
    unet = tiny()
    plain = drawn(unet)
    Session(unet=unet, mode=mode).activate([request])
    return plain, drawn(unet)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_model_that_is_offloaded_already_is_patched_where_its_layers_are_loaded_from(
    unet, request_of, mode, where, tmp_path
):
    plain, changed = wanted(request_of, mode)
    if where == "memory":
        accelerate.cpu_offload(unet, torch.device("cpu"))
    else:
        accelerate.disk_offload(unet, str(tmp_path / "offloaded"), torch.device("cpu"))
    session = Session(unet=unet, mode=mode)
    report = session.activate([request_of])
    assert not report.adapters[0].unmatched
    assert close(drawn(unet), changed)
    assert close(drawn(unet), changed)
    assert session.verify()
    session.deactivate()
    assert drawn(unet).equal(plain)
    assert session.verify()
    assert hooks(unet) == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("drawing", [True, False])
def test_a_model_that_is_offloaded_while_active_comes_back(unet, request_of, mode, drawing):
    plain, changed = wanted(request_of, mode)
    before = state(unet)
    session = Session(unet=unet, mode=mode)
    session.activate([request_of])
    accelerate.cpu_offload(unet, torch.device("cpu"))
    if drawing:
        assert close(drawn(unet), changed)
    assert session.verify()
    session.deactivate()
    assert drawn(unet).equal(plain)
    assert session.verify()
    accelerate.hooks.remove_hook_from_submodules(unet)
    assert same(state(unet), before)
    assert hooks(unet) == 0


def test_offloading_that_ends_while_active_leaves_the_adapter_on(unet, request_of):
    plain, changed = wanted(request_of)
    before = state(unet)
    accelerate.cpu_offload(unet, torch.device("cpu"))
    session = Session(unet=unet)
    session.activate([request_of])
    accelerate.hooks.remove_hook_from_submodules(unet)
    assert close(drawn(unet), changed)
    session.deactivate()
    assert same(state(unet), before)
    assert drawn(unet).equal(plain)
    assert session.verify()


def test_verify_sees_what_is_loaded_of_an_offloaded_model(unet, request_of):
    session = Session(unet=unet)
    session.activate([request_of])
    accelerate.cpu_offload(unet, torch.device("cpu"))
    session.deactivate()
    values = unet.conv_in._hf_hook.weights_map
    values.dataset["conv_in.weight"].add_(1)
    assert not session.verify()


@pytest.mark.parametrize("mode", MODES)
def test_whole_models_that_are_offloaded_between_runs_come_back(unet, request_of, mode):
    plain, changed = wanted(request_of, mode)
    session = Session(unet=unet, mode=mode)
    session.activate([request_of])
    unet, hook = accelerate.cpu_offload_with_hook(unet, torch.device("cpu"))
    assert close(drawn(unet), changed)
    hook.offload()
    session.deactivate()
    assert drawn(unet).equal(plain)
    assert session.verify()


@pytest.mark.parametrize("mode", MODES)
def test_an_adapter_acts_wholly_on_projections_that_were_fused_before(unet, request_of, mode):
    plain, changed = wanted(request_of, mode)
    unet.fuse_qkv_projections()
    own, fused = state(unet), drawn(unet)
    assert close(fused, plain)
    session = Session(unet=unet, mode=mode)
    report = session.activate([request_of]).adapters[0]
    assert (report.matched, report.unmatched) == (report.total, [])
    assert close(drawn(unet), changed)
    unet.unfuse_qkv_projections()
    assert close(drawn(unet), changed)
    unet.fuse_qkv_projections()
    assert close(drawn(unet), changed)
    session.deactivate()
    assert same(state(unet), own)
    assert drawn(unet).equal(fused)
    assert session.verify()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("drawing", [True, False])
def test_projections_that_are_fused_while_active_come_back(unet, request_of, mode, drawing):
    plain, changed = wanted(request_of, mode)
    twin = tiny()
    twin.fuse_qkv_projections()
    own, fused = state(twin), drawn(twin)
    session = Session(unet=unet, mode=mode)
    session.activate([request_of])
    unet.fuse_qkv_projections()
    if drawing:
        assert close(drawn(unet), changed)
        assert session.verify()
    session.deactivate()
    assert same(state(unet), own)
    assert drawn(unet).equal(fused)
    unet.unfuse_qkv_projections()
    assert drawn(unet).equal(plain)
    assert session.verify()


def test_a_session_that_takes_over_gives_fused_projections_back_too(unet, request_of):
    twin = tiny()
    twin.fuse_qkv_projections()
    Session(unet=unet).activate([request_of])
    unet.fuse_qkv_projections()
    Session(unet=unet).deactivate()
    assert same(state(unet), state(twin))


def test_projections_fused_inside_a_picture_follow_the_strength_and_come_back(unet, request_of):
    twin = tiny()
    twin.fuse_qkv_projections()
    own = state(twin)
    moving = [Request(request_of.adapter, unet=read_curve("0.2@0,1@1"), mode="merged")]
    with Session(unet=twin) as session:
        session.activate([Request(request_of.adapter, unet=1.0)])
        changed = drawn(twin)
    session = Session(unet=unet)
    session.activate(moving, Moment(0, 3))
    drawn(unet)
    unet.fuse_qkv_projections()
    for step in (1, 2):
        session.at(Moment(step, 3))
        last = drawn(unet)
    assert close(last, changed)
    session.deactivate()
    assert same(state(unet), own)
    assert session.verify()


def test_what_was_fused_of_weights_that_are_gone_is_said(unet, request_of, caplog):
    """Nothing of the model tells what they were: the adapter stays, and that is no secret."""
    session = Session(unet=unet)
    session.activate([request_of])
    unet.fuse_qkv_projections()
    for module in unet.modules():
        if hasattr(module, "to_qkv"):
            module.to_qkv.weight.data *= 1.5
    session.deactivate()
    assert not session.verify()
    assert "to_qkv" in str(session.report)
    assert "to_qkv" in caplog.text
    unet.unfuse_qkv_projections()
    for module in unet.modules():
        if hasattr(module, "to_qkv"):
            del module.to_qkv
    assert session.verify()


def test_a_layer_that_is_kept_twice_comes_back_in_both(unet, request_of):
    """As PEFT's `modules_to_save` does."""
    before = state(unet)
    session = Session(unet=unet)
    session.activate([request_of])
    unet.conv_in.kept = copy.deepcopy(unet.conv_in)
    session.deactivate()
    assert unet.conv_in.kept.weight.equal(before["conv_in.weight"])
    assert unet.conv_in.kept.bias.equal(before["conv_in.bias"])
    del unet.conv_in.kept
    assert same(state(unet), before)


def test_a_parameter_that_another_module_took_over_gets_its_own_back(unet, request_of):
    """As where wrapped layers are exchanged for new ones that take their parameters."""
    before = state(unet)
    session = Session(unet=unet)
    session.activate([request_of])
    old = unet.conv_in
    new = nn.Conv2d(4, 16, 3, padding=1)
    new.weight, new.bias = old.weight, old.bias
    unet.conv_in = new
    del old
    session.deactivate()
    assert same(state(unet), before)
    assert session.verify()


def test_a_parameter_kept_aside_and_put_back_later_has_its_own_again(unet, request_of):
    before = state(unet)
    session = Session(unet=unet)
    session.activate([request_of])
    aside, unet.conv_in.weight = unet.conv_in.weight, nn.Parameter(torch.zeros(16, 4, 3, 3))
    session.deactivate()
    unet.conv_in.weight = aside
    assert same(state(unet), before)
