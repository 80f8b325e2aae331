"""Hypernetworks against the web UI's own module, restated here: nn.Sequential, saved and loaded as it does."""

from __future__ import annotations

import copy
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from lib_adapters.conditioning.hypernetwork_file import open_hypernetwork, save_hypernetwork
from lib_adapters.conditioning.hypernetwork_patcher import (
    HypernetworkPatcher,
    HypernetworkRequest,
    attention_projections,
)
from lib_adapters.errors import AdapterError

ACTIVATIONS = {
    None: None, "linear": None, "relu": nn.ReLU, "leakyrelu": nn.LeakyReLU, "elu": nn.ELU, "swish": nn.Hardswish,
    "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "mish": nn.Mish, "gelu": nn.GELU, "silu": nn.SiLU, "softsign": nn.Softsign,
    "softplus": nn.Softplus, "selu": nn.SELU, "celu": nn.CELU, "hardtanh": nn.Hardtanh, "ReLU": nn.ReLU,
}  # fmt: skip


def module(dim, structure, activation, *, norm=False, last=True, dropout=None):
    """As the web UI builds one: numbers of layers are shifted by activations, norms and dropout."""
    layers = []
    for i in range(len(structure) - 1):
        layers.append(nn.Linear(int(dim * structure[i]), int(dim * structure[i + 1])))
        if ACTIVATIONS[activation] is not None and (last or i < len(structure) - 2):
            layers.append(ACTIVATIONS[activation]())
        if norm:
            layers.append(nn.LayerNorm(int(dim * structure[i + 1])))
        if dropout and dropout[i + 1] > 0:
            layers.append(nn.Dropout(dropout[i + 1]))
    built = nn.Sequential(*layers).eval()
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.3)
    return built


def state(built):
    return {f"linear.{key}": value for key, value in built.state_dict().items()}


def save(path, nets, **fields):
    torch.save({width: tuple(state(net) for net in pair) for width, pair in nets.items()} | fields, path)
    return open_hypernetwork(path)


CASES = [
    *((activation, norm, last, None, [1, 2, 1]) for activation in ACTIVATIONS for norm in (False, True)
      for last in (True, False)),
    ("relu", False, True, [0, 0.3, 0], [1, 2, 1]), ("mish", True, False, [0, 0.1, 0.2, 0], [1, 2, 2, 1]),
    ("swish", True, True, [0, 0.3, 0.3, 0], [1, 0.5, 3, 1]), (None, False, True, None, [1, 1]),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_net_computes_what_the_web_ui_computes(tmp_path, case):
    activation, norm, last, dropout, structure = case
    torch.manual_seed(0)
    pair = tuple(module(8, structure, activation, norm=norm, last=last, dropout=dropout) for _ in "kv")
    found = save(
        tmp_path / "x.pt", {8: pair}, layer_structure=structure, activation_func=activation, is_layer_norm=norm,
        activate_output=last, use_dropout=bool(dropout), dropout_structure=dropout, step=3, name="inner",
    )  # fmt: skip
    x = torch.randn(2, 5, 8)
    for net, truth in zip(found.nets[8], pair, strict=True):
        torch.testing.assert_close(net(x), truth(x), rtol=0, atol=0)
    assert found.name == "x"
    assert found.structure == "-".join(f"{n:g}" for n in structure)


@torch.no_grad()
def test_files_without_the_field_have_an_activation_behind_the_last_layer(tmp_path):
    net = module(4, [1, 2, 1], "relu", last=True)
    found = save(tmp_path / "old.pt", {4: (net, net)}, activation_func="relu")
    x = torch.randn(3, 4)
    assert torch.equal(found.nets[4][0](x), net(x))


@torch.no_grad()
def test_novel_ai_files(tmp_path):
    net = module(4, [1, 2, 1], None)
    old = {f"linear{n + 1}.{key}": value for n in (0, 1) for key, value in net[n].state_dict().items()}
    torch.save({4: (old, old)}, tmp_path / "nai.pt")
    x = torch.randn(3, 4)
    assert torch.equal(open_hypernetwork(tmp_path / "nai.pt").nets[4][1](x), net(x))


@pytest.mark.filterwarnings("ignore:TypedStorage")  # torch 2.1 about its own loading
def test_both_forms_and_back_hold_the_same(tmp_path):
    nets = {width: tuple(module(width, [1, 2, 1], "mish", norm=True) for _ in "kv") for width in (4, 8)}
    first = save(tmp_path / "a.pt", nets, activation_func="mish", is_layer_norm=True, optional_info="mine")
    save_hypernetwork(first, tmp_path / "b.safetensors")
    save_hypernetwork(open_hypernetwork(tmp_path / "b.safetensors"), tmp_path / "c.pt")
    last = open_hypernetwork(tmp_path / "c.pt")
    assert last.fields == first.fields
    assert {w: [s.keys() for s in pair] for w, pair in last.state_dicts.items()} == {
        w: [s.keys() for s in pair] for w, pair in first.state_dicts.items()
    }
    assert all(
        torch.equal(a[key], b[key])
        for width in nets
        for a, b in zip(first.state_dicts[width], last.state_dicts[width], strict=True)
        for key in a
    )
    torch.load(tmp_path / "c.pt", weights_only=True)  # what the web UI's own unpickler lets through


class _Attention(nn.Module):
    """The unoptimised attention of ldm, with the web UI's call in front of keys and values."""

    def __init__(self, width, context):
        super().__init__()
        self.to_q, self.to_k, self.to_v = nn.Linear(width, width), nn.Linear(context, width), nn.Linear(context, width)

    def forward(self, x, context=None, nets=()):
        context = x if context is None else context
        k = v = context
        for pair, strength in nets:
            if context.shape[-1] in pair:
                k = k + pair[context.shape[-1]][0](k) * strength
                v = v + pair[context.shape[-1]][1](v) * strength
        weights = torch.softmax(self.to_q(x) @ self.to_k(k).transpose(-1, -2), -1)
        return weights @ self.to_v(v)


class _Unet(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = _Attention(8, 8), _Attention(8, 16)

    def forward(self, x, context, nets=()):
        x = x + self.one(x, nets=nets)
        return x + self.two(x, context, nets=nets)


@pytest.fixture
def unet():
    torch.manual_seed(1)
    return _Unet().eval()


def hypernetworks(tmp_path, count=2, widths=(8, 16)):
    torch.manual_seed(2)
    for n in range(count):
        pairs = {width: tuple(module(width, [1, 2, 1], "relu") for _ in "kv") for width in widths}
        yield pairs, save(tmp_path / f"{n}.pt", pairs, activation_func="relu")


@torch.no_grad()
def test_several_are_chained_in_their_order_and_leave_nothing_behind(tmp_path, unet):
    (pa, a), (pb, b) = hypernetworks(tmp_path)
    x, context = torch.randn(2, 5, 8), torch.randn(2, 7, 16)
    plain, weights = unet(x, context), {k: v.clone() for k, v in unet.state_dict().items()}
    active = HypernetworkPatcher(unet)
    reports = active.activate([HypernetworkRequest(a, 0.7), HypernetworkRequest(b, -0.4)])
    torch.testing.assert_close(unet(x, context), unet_with(unet, x, context, [(pa, 0.7), (pb, -0.4)], active))
    swapped = HypernetworkPatcher(unet)
    active.deactivate()
    swapped.activate([HypernetworkRequest(b, -0.4), HypernetworkRequest(a, 0.7)])
    assert not torch.allclose(unet(x, context), unet_with(unet, x, context, [(pa, 0.7), (pb, -0.4)], swapped))
    swapped.deactivate()
    assert torch.equal(unet(x, context), plain)
    assert all(torch.equal(v, weights[k]) for k, v in unet.state_dict().items())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in unet.modules())
    assert reports[0].summary() == "0: 2 of 2 attentions (Hypernetwork 1-2-1), strength 0.7"


def unet_with(unet, x, context, nets, active):
    """The same model with the web UI's own call, while our hooks are off."""
    assert len(active)
    twin = copy.deepcopy(unet)  # a copy's hooks do nothing
    return twin(x, context, nets=nets)


@torch.no_grad()
def test_zero_is_absence_and_half_stays_half(tmp_path, unet):
    ((_, a),) = hypernetworks(tmp_path, 1)
    active = HypernetworkPatcher(unet)
    active.activate([HypernetworkRequest(a, 0.0)])
    assert len(active) == 0
    active.activate([HypernetworkRequest(a, 1.0)])
    before = [list(module._forward_pre_hooks) for module in unet.modules()]
    assert any(before)
    active.activate([HypernetworkRequest(a, 1.0)])
    assert [list(module._forward_pre_hooks) for module in unet.modules()] == before
    half = unet.bfloat16()
    assert half(torch.randn(1, 3, 8).bfloat16(), torch.randn(1, 3, 16).bfloat16()).dtype == torch.bfloat16
    active.deactivate()


@torch.no_grad()
def test_another_strength_takes_the_place_of_the_first(tmp_path, unet):
    ((_, a),) = hypernetworks(tmp_path, 1)
    x, context, fresh = torch.randn(2, 5, 8), torch.randn(2, 7, 16), HypernetworkPatcher(unet)
    fresh.activate([HypernetworkRequest(a, 0.3)])
    wanted = unet(x, context)
    fresh.deactivate()
    changed = HypernetworkPatcher(unet)
    changed.activate([HypernetworkRequest(a, 1.0)])
    changed.activate([HypernetworkRequest(a, 0.3)])
    assert torch.equal(unet(x, context), wanted)


@torch.no_grad()
@pytest.mark.parametrize("peer", ["ldm", "diffusers"])
def test_on_the_real_unets_every_attention_is_reached(tmp_path, peer):
    unet = _real(peer)
    for parameter in unet.parameters():
        nn.init.normal_(parameter, std=0.05)  # ldm starts its last layers at zero
    widths = {one.width for one in attention_projections(unet)}
    ((_, a),) = hypernetworks(tmp_path, 1, sorted(widths))
    x, t, context = torch.randn(1, 4, 16, 16), torch.tensor([5]), torch.randn(1, 7, 48)
    run = (lambda: unet(x, t, context)) if peer == "ldm" else (lambda: unet(x, t, context).sample)
    plain, active = run(), HypernetworkPatcher(unet, "sd1")
    report = active.activate([HypernetworkRequest(a, 0.5)])[0]
    assert report.matched == report.total > 4
    assert not torch.allclose(run(), plain)
    active.deactivate()
    assert torch.equal(run(), plain)


def _real(peer):
    torch.manual_seed(3)
    if peer == "ldm":
        openai = pytest.importorskip("ldm.modules.diffusionmodules.openaimodel", reason="oracle: ldm")
        return openai.UNetModel(
            image_size=32, in_channels=4, out_channels=4, model_channels=32, attention_resolutions=[2, 1],
            num_res_blocks=1, channel_mult=[1, 2], num_heads=4, use_spatial_transformer=True, transformer_depth=1,
            context_dim=48, use_checkpoint=False, legacy=False,
        ).eval()  # fmt: skip
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=48, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()  # fmt: skip


def test_a_file_for_another_base_is_refused_by_name(tmp_path, unet):
    net = module(768, [1, 1], None), module(768, [1, 1], None)
    sd1 = save(tmp_path / "sd1.pt", {768: net, 320: tuple(module(320, [1, 1], None) for _ in "kv")})
    assert sd1.family == "sd1"
    active = HypernetworkPatcher(unet, "sdxl")
    line = active.activate([HypernetworkRequest(sd1)])[0].summary()
    assert "sd1 was made for Stable Diffusion 1.x, but this model is SDXL" in line
    assert len(active) == 0
    assert (
        "has nets for widths 320, 768"
        in HypernetworkPatcher(unet, "sd1").activate([HypernetworkRequest(sd1)])[0].summary()
    )


def _broken(tmp_path: Path) -> dict[str, object]:
    net = state(module(4, [1, 2, 1], "relu"))
    return {
        "no pair": {4: (net,)}, "no nets": {"step": 1}, "a list": [1, 2],
        "unknown": {4: (net, net), "activation_func": "os.system"},
        "attention": {4: (net, net), "activation_func": "multiheadattention"}, "zero": {0: (net, net)},
        "not a tensor": {4: ({"linear.0.weight": 1}, net)}, "wrong width": {5: (net, net)},
        "no bias": {4: ({k: v for k, v in net.items() if "bias" not in k}, net)},
        "nan": {4: ({k: v * float("nan") for k, v in net.items()}, net)},
        "strange": {4: ({"body.0": net["linear.0.bias"]}, net)},
    }  # fmt: skip


def test_broken_files_are_sentences_with_their_names(tmp_path):
    for name, content in _broken(tmp_path).items():
        torch.save(content, tmp_path / f"{name}.pt")
        with pytest.raises(AdapterError, match=f"^{name}.pt "):
            open_hypernetwork(tmp_path / f"{name}.pt")


def test_code_in_a_pickle_is_not_run(tmp_path):
    flag = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (flag,))

    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as file:
        file.writestr("evil/data.pkl", pickle.dumps({4: Evil()}, protocol=2))
        file.writestr("evil/version", "3")
    with pytest.raises(AdapterError, match=r"^evil.pt "):
        open_hypernetwork(tmp_path / "evil.pt")
    assert not flag.exists()


def test_strengths_that_are_no_numbers(tmp_path):
    ((_, a),) = hypernetworks(tmp_path, 1)
    for strength in (float("nan"), float("inf"), 1e30):
        with pytest.raises(AdapterError, match="finite"):
            HypernetworkRequest(a, strength)
