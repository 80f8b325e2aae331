"""Other code copies, moves and wraps weights while adapters are on them: the model comes back, or it is said."""

from __future__ import annotations

import copy

import accelerate
import pytest
import torch
from diffusers.utils.peft_utils import recurse_remove_peft_layers
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from lib_adapters import Request, Session
from lib_adapters.prompt.schedule import SamplingStep, parse_curve
from tests.support.sample_adapters import MAKERS, adapter_for
from tests.support.tiny_models import diffusers_unet, seeded

KINDS = ("LoRA", "Full")
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
    with torch.inference_mode():
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
    moving = [Request(request_of.adapter, unet=parse_curve("0.2@0,1@1"), mode="merged")]
    with Session(unet=twin) as session:
        session.activate([Request(request_of.adapter, unet=1.0)])
        changed = drawn(twin)
    session = Session(unet=unet)
    session.activate(moving, SamplingStep(0, 3))
    drawn(unet)
    unet.fuse_qkv_projections()
    for step in (1, 2):
        session.set_step(SamplingStep(step, 3))
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
    attention = unet.mid_block.attentions[0].transformer_blocks[0].attn1
    lent = nn.Linear(32, 32)
    lent.weight, lent.bias = attention.to_q.weight, attention.to_q.bias
    attention.to_q = lent
    del old
    session.deactivate()
    assert lent.bias is None or not lent.bias.any()
    lent.bias = None
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


def tuned(unet):
    """PEFT's layers around the projections."""
    config = LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False)
    seeded(5)
    inject_adapter_in_model(config, unet)
    return [module for module in unet.modules() if isinstance(module, LoraLayer)]


def without_tuner(weights):
    return {name.replace(".base_layer", ""): one for name, one in weights.items() if "lora_" not in name}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("taken_off", [True, False])
def test_peft_layers_put_around_ours_and_taken_off_again_change_nothing(unet, request_of, mode, taken_off):
    _, changed = wanted(request_of, mode)
    before = state(unet)
    session = Session(unet=unet, mode=mode)
    session.activate([request_of])
    tuned(unet)
    assert not close(drawn(unet), changed)
    if taken_off:
        recurse_remove_peft_layers(unet)
        assert close(drawn(unet), changed)
    session.deactivate()
    assert same(without_tuner(state(unet)), before)
    assert session.verify()


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("drawing", [True, False])
def test_what_peft_merges_while_active_is_undone_and_said(unet, request_of, drawing, safe):
    layers = tuned(unet)
    before, plain = state(unet), drawn(unet)
    session = Session(unet=unet)
    session.activate([request_of])
    changed = drawn(unet)
    for layer in layers:
        layer.merge(safe_merge=safe)
    if drawing:
        assert close(drawn(unet), changed)
    assert session.verify()
    session.deactivate()
    assert "PEFT" in str(session.report) or drawing
    assert same(state(unet), before)
    assert drawn(unet).equal(plain)
    assert not any(layer.merged for layer in layers)
    assert session.verify()


def test_what_peft_takes_out_while_active_is_in_the_original_weights_again(unet, request_of):
    layers = tuned(unet)
    for layer in layers:
        layer.merge()
    before, plain = state(unet), drawn(unet)
    session = Session(unet=unet)
    session.activate([request_of])
    for layer in layers:
        layer.unmerge()
    session.deactivate()
    assert same(state(unet), before)
    assert drawn(unet).equal(plain)
    assert all(layer.merged for layer in layers)
    assert session.verify()


@pytest.mark.parametrize("write", [lambda w: w.data.add_(0.5), lambda w: w[0, 0, 0, 0].add_(1)])
def test_what_is_written_into_merged_weights_is_lost_and_said(unet, request_of, caplog, write):
    before = state(unet)
    session = Session(unet=unet)
    session.activate([request_of])
    assert session.verify()
    write(unet.conv_in.weight)
    assert not session.verify()
    session.deactivate()
    assert "conv_in" in str(session.report)
    assert "conv_in" in caplog.text
    assert same(state(unet), before)
    assert session.verify()


class Quantised(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.register_buffer("values", (layer.weight.data * 100).to(torch.int8))


def in_place(unet):
    values = (unet.conv_in.weight.data * 100).to(torch.int8)
    unet.conv_in._parameters["weight"] = nn.Parameter(values, requires_grad=False)


def by_another(unet):
    unet.conv_in = Quantised(unet.conv_in)


@pytest.mark.parametrize("quantise", [in_place, by_another])
def test_what_is_quantised_while_active_keeps_the_adapter_and_says_so(unet, request_of, quantise, caplog):
    session = Session(unet=unet)
    session.activate([request_of])
    quantise(unet)
    assert not session.verify()
    session.deactivate()
    assert not session.verify()
    assert "conv_in" in str(session.report)
    assert "conv_in" in caplog.text
    assert "conv_in" in str(Session(unet=unet).activate([request_of])) or quantise is by_another
    unet.conv_in = nn.Conv2d(4, 16, 3, padding=1)
    assert session.verify()


SAVING = {
    "save_pretrained": lambda unet, path: unet.save_pretrained(path),
    "state_dict": lambda unet, path: unet.state_dict(),
    "of a part": lambda unet, path: unet.conv_in.state_dict(),
    "deepcopy": lambda unet, path: copy.deepcopy(unet),
    "pickle": lambda unet, path: torch.save(unet, path / "unet.pt"),
}


@pytest.mark.parametrize("save", SAVING.values(), ids=SAVING)
def test_what_is_saved_or_copied_while_active_is_said_to_be_merged(unet, request_of, save, tmp_path, caplog):
    session = Session(unet=unet)
    save(unet, tmp_path)
    session.activate([request_of])
    assert caplog.text == ""
    save(unet, tmp_path)
    save(unet, tmp_path)
    assert caplog.text.count("adapters are active") == 1
    assert "deactivate" in str(session.report)
    session.deactivate()
    caplog.clear()
    save(unet, tmp_path)
    assert caplog.text == ""


def test_weights_that_are_only_live_are_saved_as_they_are(unet, request_of, caplog):
    before, session = state(unet), Session(unet=unet, mode="live")
    session.activate([request_of])
    assert same(state(unet), before)
    assert caplog.text == ""


@pytest.mark.parametrize("mode", MODES)
def test_a_model_cast_while_active_has_its_own_weights_cast(unet, request_of, mode):
    twin = tiny().half()
    session = Session(unet=unet, mode=mode)
    session.activate([request_of])
    unet.to(torch.float16)
    session.deactivate()
    assert same(state(unet), state(twin))
    assert session.verify()


@pytest.mark.parametrize("mode", MODES)
def test_weights_that_are_assigned_while_active_are_the_models_own(unet, request_of, mode):
    session = Session(unet=unet, mode=mode)
    other = {name: tensor + 1 for name, tensor in state(unet).items()}
    session.activate([request_of])
    unet.load_state_dict(other, assign=True)
    drawn(unet)
    session.deactivate()
    assert same(state(unet), other)
    assert session.verify()


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        seeded(3)
        self.mid_block = nn.ModuleDict({"proj": nn.Linear(8, 8), "to_k": nn.Linear(8, 8, bias=False)})

    def forward(self, x):
        return self.mid_block["to_k"](self.mid_block["proj"](x))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("first", ["compiled", "active"])
@pytest.mark.parametrize("how", ["wrapper", "inside", "in place"])
def test_a_compiled_model_follows_and_comes_back(tmp_path, mode, first, how):
    request = Request(adapter_for(Small(), tmp_path / "full.safetensors", MAKERS["Full"]))
    model, x = Small().requires_grad_(False), torch.randn(2, 8)
    plain = model(x)
    compiled = model if how == "in place" else torch.compile(model, backend="eager")
    session = Session(unet=compiled if how == "wrapper" else model, mode=mode)
    if first == "active":
        session.activate([request])
    if how == "in place":
        model.compile(backend="eager")
    compiled(x)
    session.activate([request])
    twin = Small().requires_grad_(False)
    Session(unet=twin, mode=mode).activate([request])
    assert close(compiled(x), twin(x))
    session.deactivate()
    assert torch.equal(compiled(x), plain)
    assert session.verify()
