"""One network under two names: the same weights in both spellings draw the same, with and without an adapter."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lib_adapters import Request, Session, open_adapter
from lib_adapters.patching.layers import Layer, LayerTable
from lib_adapters.patching.named_modules import named_modules
from tests.support.lycoris_networks import (
    LDM_BLOCKS,
    LDM_OUTSIDE,
    assert_same,
    network,
    run_text,
    run_unet,
    saved,
    written,
)
from tests.support.tiny_models import clip, diffusers_unet, ldm_unet, open_clip

WIDTH = 32
TWIN = {"attention_head_dim": 2, "norm_num_groups": 32}  # what ldm's class does with SD1's settings
CLOSE = 3e-5  # two implementations of one attention


def poured(source: nn.Module, target: nn.Module) -> int:
    """Copy every weight to where our table says it belongs; the number of parameters that were written."""
    unet = hasattr(target, "input_blocks") or hasattr(target, "down_blocks")
    tables = [
        LayerTable.from_model(m, []).unet if unet else LayerTable.from_model(None, [m]).text_encoders[0]
        for m in (source, target)
    ]
    written = set()
    for name, there in tables[1].items():
        here = tables[0].get(name)
        for mine, theirs in _tensors(here, there) if here is not None else []:
            theirs.copy_(mine)
        if here is not None:
            written |= {slot.key for slot in (there.weight, there.bias) if slot and slot.parameter() is not None}
    return len(written)


def _tensors(here: Layer, there: Layer):
    yield here.view.apply(here.weight.parameter().data), there.view.apply(there.weight.parameter().data)
    if here.bias and there.bias and here.bias.parameter() is not None:
        rows = there.view.rows or (0, None)
        yield here.bias.parameter().data, there.bias.parameter().data[slice(*rows)]


@pytest.fixture(scope="module", params=[False, True], ids=["sd1", "sd2"])
def unets(request):
    diffusers = diffusers_unet(family="sd2" if request.param else "sd1", context=WIDTH, **TWIN)
    ldm = ldm_unet(context=WIDTH, linear=request.param)
    with torch.no_grad():
        for parameter in ldm.parameters():
            parameter.zero_()
    assert poured(diffusers, ldm) == len(list(ldm.parameters())) == len(list(diffusers.parameters()))
    return diffusers, ldm


@pytest.fixture(scope="module")
def encoders():
    hugging_face = clip(
        width=24, layers=3, projection=True, intermediate_size=96, hidden_act="gelu", max_position_embeddings=6
    )
    tower = open_clip(width=24, layers=3)
    tower.positional_embedding = nn.Parameter(tower.positional_embedding[:6].clone(), requires_grad=False)
    tower.attn_mask = tower.attn_mask[:6, :6]
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.zero_()
    assert poured(hugging_face, tower) == len(list(tower.parameters()))
    return hugging_face, tower


def test_both_unets_draw_the_same(unets):
    torch.testing.assert_close(run_unet(unets[1]), run_unet(unets[0]), rtol=CLOSE, atol=CLOSE)


def test_both_encoders_say_the_same(encoders):
    torch.testing.assert_close(run_text(encoders[1]), run_text(encoders[0]), rtol=CLOSE, atol=CLOSE)


def drawn(model, run, path):
    plain = run(model)
    parts = {"unet": model} if run is run_unet else {"text_encoders": [model]}
    with Session(**parts) as session:
        (report,) = session.activate([Request(open_adapter(path))]).adapters
        assert (report.error, report.unmatched) == (None, [])
        return run(model), plain, report.matched


@pytest.mark.parametrize("algo", ["lora", "loha", "lokr", "diag-oft", "full", "ia3"])
@pytest.mark.parametrize("ldm", [False, True], ids=["trained-as-diffusers", "trained-as-ldm"])
def test_a_network_trained_on_one_draws_the_same_on_the_other(unets, tmp_path, algo, ldm):
    theirs = copy.deepcopy(unets[ldm])
    layout = {"blocks": LDM_BLOCKS, "outside": LDM_OUTSIDE} if ldm else {}
    made = network(theirs, algo=algo, train_norm=algo in ("lora", "full"), **layout)
    path = saved(made, tmp_path / "net.safetensors", algo=algo)
    expected = run_unet(theirs)
    for model in unets:
        ours, plain, matched = drawn(model, run_unet, path)
        assert matched == len(made.loras)
        assert_same(ours, expected, plain, CLOSE)


@pytest.mark.parametrize("algo", ["lora", "lokr", "diag-oft", "full", "ia3"])
def test_a_network_trained_on_hugging_faces_encoder_fits_open_clips(encoders, tmp_path, algo):
    theirs = copy.deepcopy(encoders[0])
    made = network(None, [theirs], algo=algo, train_norm=True)
    path = saved(made, tmp_path / "net.safetensors", algo=algo)
    expected = run_text(theirs)
    for model in encoders:
        ours, plain, matched = drawn(model, run_text, path)
        assert matched == len(made.loras) > 20
        assert_same(ours, expected, plain, CLOSE)


def flat_pairs(unets):
    """One LoRA for each layer, under its path in both spellings."""
    generator = torch.Generator().manual_seed(1)
    names = {id(layer.weight.module()): path for path, layer in _paths(unets[1])}
    tables = [LayerTable.from_model(model, []).unet for model in unets]
    ldm_of = {there.path: names[id(tables[1][name].weight.module())] for name, there in tables[0].items()}
    for path, module in unets[0].named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            o, i, *kernel = module.weight.shape
            down = torch.randn(2, i, *kernel, generator=generator) * 0.2
            up = torch.randn(o, 2, *(1 for _ in kernel), generator=generator) * 0.2
            yield path, ldm_of[path], down, up


def _paths(model):
    table = LayerTable.from_model(model, []).unet
    return [(layer.path, layer) for layer in table.values()]


FORMS = {
    "kohya": lambda nested, ldm: (f"lora_unet_{nested.replace('.', '_')}", "lora_down.weight", "lora_up.weight"),
    "kohya-ldm": lambda nested, ldm: (f"lora_unet_{ldm.replace('.', '_')}", "lora_down.weight", "lora_up.weight"),
    "lycoris": lambda nested, ldm: (f"lycoris_{nested.replace('.', '_')}", "lora_down.weight", "lora_up.weight"),
    "diffusers": lambda nested, ldm: (f"unet.{nested}", "lora_A.weight", "lora_B.weight"),
    "diffusers-old": lambda nested, ldm: (f"unet.{nested}", "lora.down.weight", "lora.up.weight"),
    "peft": lambda nested, ldm: (f"base_model.model.{nested}", "lora_A.default.weight", "lora_B.default.weight"),
    "native": lambda nested, ldm: (f"diffusion_model.{ldm}", "lora_A.weight", "lora_B.weight"),
    "checkpoint": lambda nested, ldm: (f"model.diffusion_model.{ldm}", "lora_down.weight", "lora_up.weight"),
    "bare": lambda nested, ldm: (nested, "lora_A.weight", "lora_B.weight"),
}


@pytest.mark.slow
def test_one_adapter_in_every_spelling_is_one_adapter(unets, tmp_path):
    drawings = {}
    for name, form in FORMS.items():
        tensors = {}
        for nested, ldm, down, up in flat_pairs(unets):
            module, below, above = form(nested, ldm)
            tensors |= {f"{module}.{below}": down, f"{module}.{above}": up}
        path = written(tensors, tmp_path / f"{name}.safetensors")
        for n, model in enumerate(unets):
            drawings[name, n], plain, matched = drawn(model, run_unet, path)
            assert matched == len(tensors) // 2
            assert torch.equal(drawings[name, n], drawings["kohya", n])
    assert_same(drawings["kohya", 1], drawings["kohya", 0], plain, CLOSE)


def test_the_modules_are_those_of_torch_in_its_order():
    """One that has two places, or none at all, included."""
    shared = nn.Linear(2, 2)
    inner = nn.Sequential(shared, nn.ReLU(), nn.Sequential(shared))
    root = nn.ModuleDict({"a": inner, "b": shared, "c": inner, "d.e".replace(".", "_"): nn.Identity()})
    root.register_module("nothing", None)
    inner[2].register_module("round", root)  # a part that knows the whole
    assert named_modules(root) == list(root.named_modules())
