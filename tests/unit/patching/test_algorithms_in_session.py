"""Every example of every algorithm, through a file and a session: both modes, every kind of layer, type and order."""

from __future__ import annotations

import contextlib
import copy
import json
import random

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lib_adapters import Request, Session, open_adapter
from lib_adapters.algorithms import ALGORITHMS
from lib_adapters.patching.patched_forward import PatchedForward
from lib_adapters.prompt.schedule import SamplingStep
from tests.support.algorithm_examples import examples

EXAMPLES = examples()
LABELS = {name: example.read().label for name, example in EXAMPLES.items()}
MATRICES = [name for name, example in EXAMPLES.items() if len(example.shape) == 2]
SHAPES = {(6, 8), (6, 8, 3, 2), (16, 12), (16, 12, 3, 3), (16, 12, 1, 1)}  # of which there are several algorithms
HALVES = (torch.float16, torch.bfloat16)
STORED = (torch.float32, *HALVES, torch.float8_e4m3fn, torch.float8_e5m2)
PLACE = "conv_in"  # a name that a UNet has; what stands there is up to the test


def layer_of(shape: tuple[int, ...]) -> nn.Module:
    if len(shape) == 1:
        return nn.LayerNorm(shape[0])
    if len(shape) == 2:
        return nn.Linear(shape[1], shape[0])
    return nn.Conv2d(shape[1], shape[0], shape[2:], padding=tuple(k // 2 for k in shape[2:]))


def model_of(shape: tuple[int, ...]) -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({PLACE: layer_of(shape)}).requires_grad_(False)


def inputs(layer: nn.Module) -> Tensor:
    torch.manual_seed(1)
    if isinstance(layer, nn.Conv2d):
        return torch.randn(2, layer.in_channels, 5, 5)
    return torch.randn(2, 3, layer.weight.shape[-1])


def opened(name, folder, dtype=None, prefix=f"lora_unet_{PLACE}"):
    leaves = EXAMPLES[name].leaves
    cast = {leaf: t if dtype is None or t.numel() == 1 or not t.is_floating_point() else t.to(dtype)
            for leaf, t in leaves.items()}  # fmt: skip
    path = folder / f"{name}.safetensors"
    save_file({f"{prefix}.{leaf}": tensor.contiguous() for leaf, tensor in cast.items()}, path)
    path.with_suffix(".json").write_text(json.dumps({"lycoris": dict(EXAMPLES[name].facts.overrides or {})}), "utf-8")
    return open_adapter(path)


def subfolder(folder):
    (folder / "other").mkdir()
    return folder / "other"


def test_every_algorithm_has_an_example():
    assert set(LABELS.values()) == {algorithm.label for algorithm in ALGORITHMS}


UNCHANGED = ("lora-zero-alpha", "full-bias", "whole-bias")  # weights that these examples leave as they are


@pytest.mark.parametrize("name", EXAMPLES)
def test_live_and_merged_are_one(tmp_path, name):
    model, adapter = model_of(EXAMPLES[name].shape), opened(name, tmp_path)
    layer = model[PLACE]
    x, before = inputs(layer), copy.deepcopy(model.state_dict())
    plain = layer(x)
    for strength in (1.0, -0.5):
        outputs = []
        for mode in ("merged", "live"):
            with Session(unet=model, mode=mode) as session:
                (report,) = session.activate([Request(adapter, unet=strength)]).adapters
                assert (report.error, report.unmatched, report.matched) == (None, [], 1)
                assert isinstance(layer.forward.__func__, PatchedForward) == (mode == "live")
                outputs.append(layer(x))
            assert torch.equal(layer(x), plain)
        scale = float(outputs[0].abs().max())
        torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-5, atol=1e-5 * scale)
        assert name == "lora-zero-alpha" or not torch.allclose(outputs[0], plain, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())
    assert session.verify()


@pytest.mark.parametrize("name", EXAMPLES)
def test_weights_are_stored_as_they_were_and_rounded_once(tmp_path, name):
    for stored in STORED:
        model = model_of(EXAMPLES[name].shape).to(stored)
        before = {key: value.view(torch.uint8).clone() for key, value in model.state_dict().items()}
        exact = copy.deepcopy(model).float()
        for factors in (None, *HALVES):
            adapter = opened(name, tmp_path, factors)
            session = Session(unet=model)
            with Session(unet=exact) as reference:
                session.activate([Request(adapter, unet=0.5)])
                reference.activate([Request(adapter, unet=0.5)])
                for key, value in model.state_dict().items():
                    assert value.dtype == stored
                    assert torch.equal(value.view(torch.uint8), exact.state_dict()[key].to(stored).view(torch.uint8))
            session.deactivate()
            assert all(torch.equal(v.view(torch.uint8), before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("shape", sorted(SHAPES), ids=str)
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_a_stack_of_all_algorithms_has_no_order(tmp_path, stored, shape):
    model = model_of(shape).to(stored)
    names = [name for name, example in EXAMPLES.items() if example.shape == shape]
    requests = [Request(opened(name, tmp_path), unet=0.1 * n - 0.75) for n, name in enumerate(names)]
    assert len({LABELS[name] for name in names}) > 1
    seen = []
    for seed in range(4):
        random.Random(seed).shuffle(requests)
        session = Session(unet=model)
        assert all(one.error is None for one in session.activate(requests).adapters)
        seen.append({key: value.view(torch.uint8).clone() for key, value in model.state_dict().items()})
        session.deactivate()
    assert all(torch.equal(one[key], seen[0][key]) for one in seen for key in one)


class Attention(nn.Module):
    """OpenCLIP's names: q, k and v in one matrix, and the projection of the text turned round."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        block = nn.ModuleDict({"attn": nn.MultiheadAttention(width, 2, batch_first=True)})
        self.transformer = nn.ModuleDict({"resblocks": nn.ModuleList([block])})
        self.text_projection = nn.Parameter(torch.randn(width, out))


def squares() -> list[str]:
    """Examples whose matrix is [6, 8]: they fit a projection of 8 to 6, and rows of 8 where they are cut."""
    return [name for name in MATRICES if EXAMPLES[name].shape == (6, 8)]


@pytest.mark.parametrize("name", squares())
def test_turned_round_and_as_it_is_are_one(tmp_path, name):
    torch.manual_seed(0)
    tower, plain = Attention(8, 6), nn.Linear(8, 6, bias=False)
    with torch.no_grad():
        plain.weight.copy_(tower.text_projection.T)
    before = tower.text_projection.detach().clone()
    holder = nn.ModuleDict({PLACE: plain})
    sessions = Session(text_encoders=[tower]), Session(unet=holder)
    adapters = opened(name, tmp_path, prefix="lora_te_text_projection"), opened(name, subfolder(tmp_path))
    for session, adapter in zip(sessions, adapters, strict=True):
        (report,) = session.activate([Request(adapter, unet=0.5, te=0.5)]).adapters
        assert report.matched == 1
    torch.testing.assert_close(tower.text_projection.T, plain.weight, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(tower.text_projection, before, atol=1e-4) or name in UNCHANGED
    sessions[0].deactivate()
    assert torch.equal(tower.text_projection, before)


IN_A_THIRD = (
    "dora-rows", "dora-columns", "oft", "boft", "glora", "ia3", "lokr", "tlora", "boft-input-two", "hra", "hira",
    "shira",
    "miss-bat", "ln-tuning-line",
)  # fmt: skip


@pytest.mark.parametrize("name", IN_A_THIRD)
def test_a_third_of_a_fused_matrix_is_a_layer_of_its_own(tmp_path, name):
    example = next(n for n in MATRICES if n == name or n.startswith(name))
    o, i = EXAMPLES[example].shape
    torch.manual_seed(0)
    fused, single = nn.Linear(i, 3 * o), nn.Linear(i, o)
    model = nn.ModuleDict({"joint_blocks": nn.ModuleList([_joint(fused)])})
    with torch.no_grad():
        single.weight.copy_(fused.weight[o : 2 * o])
        single.bias.copy_(fused.bias[o : 2 * o])
    before = fused.weight.detach().clone()
    there = opened(example, tmp_path, prefix="lora_unet_transformer_blocks_0_attn_to_k")
    Session(unet=model).activate([Request(there)])
    holder = nn.ModuleDict({PLACE: single})
    Session(unet=holder).activate([Request(opened(example, subfolder(tmp_path)))])
    torch.testing.assert_close(fused.weight[o : 2 * o], single.weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fused.bias[o : 2 * o], single.bias, rtol=1e-5, atol=1e-6)
    assert torch.equal(fused.weight[:o], before[:o])
    assert torch.equal(fused.weight[2 * o :], before[2 * o :])


def _joint(fused: nn.Linear) -> nn.Module:
    side = nn.ModuleDict({"attn": nn.ModuleDict({"qkv": fused})})
    return nn.ModuleDict({"x_block": side, "context_block": nn.ModuleDict({})})


@pytest.fixture(params=[torch.bfloat16, torch.float64, "meta"], ids=str)
def defaults(request):
    """What `torch.set_default_dtype` and `torch.set_default_device` leave behind; "meta" has no values at all."""

    @contextlib.contextmanager
    def set_now():
        try:
            if request.param == "meta":
                torch.set_default_device("meta")
            else:
                torch.set_default_dtype(request.param)
            yield
        finally:
            torch.set_default_device(None)
            torch.set_default_dtype(torch.float32)

    return set_now


@pytest.mark.parametrize("name", EXAMPLES)
def test_defaults_of_torch_that_a_user_sets_change_nothing(tmp_path, name, defaults):
    model, adapter = model_of(EXAMPLES[name].shape), opened(name, tmp_path)
    layer = model[PLACE]
    x = inputs(layer)
    cases = (("merged", None), ("live", None), ("merged", frozenset({1})))

    def drawn():
        found = []
        for mode, scope in cases:
            with Session(unet=model, mode=mode) as session, torch.no_grad():
                session.activate([Request(adapter, 0.7, rows=scope)])
                session.set_step(SamplingStep(0, 1), [0, 1])
                found += [layer.weight.clone(), layer(x)]
        return found

    right = drawn()
    with defaults():
        found = drawn()
    assert all(torch.equal(one, other) for one, other in zip(found, right, strict=True))


@pytest.mark.parametrize("name", EXAMPLES)
def test_memory_formats_change_nothing(tmp_path, name):
    """A host may keep convolutions channels last and matrices transposed."""
    if len(EXAMPLES[name].shape) == 1:
        return
    models, adapter = [model_of(EXAMPLES[name].shape) for _ in range(2)], opened(name, tmp_path)
    other = models[1][PLACE].weight
    other.data = other.data.transpose(0, -1).contiguous().transpose(0, -1)
    for model in models:
        Session(unet=model).activate([Request(adapter)])
    weights = [model[PLACE].weight for model in models]
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-5, atol=1e-5)
