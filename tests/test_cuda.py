"""The same promises on a GPU; without one there is nothing to test here."""

from __future__ import annotations

import pytest
import torch
from files import MAKERS, adapter_for
from models import ldm_unet

from lib_adapters import Request, Session
from lib_adapters.patching.memory import to_host

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

SOME = ("middle_block", "time_embed", "input_blocks.0")


def state(model):
    return {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return all(a[name].equal(b[name]) for name in a)


@pytest.mark.parametrize("kind", list(MAKERS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_as_on_the_cpu(tmp_path, kind, dtype):
    cpu = ldm_unet().to(dtype)
    adapter = adapter_for(cpu, tmp_path / "a.safetensors", MAKERS[kind], SOME)
    gpu = ldm_unet().to(dtype).cuda()
    before = state(gpu)
    on_cpu, on_gpu = Session(unet=cpu), Session(unet=gpu)
    on_cpu.activate([Request(adapter, unet=0.7)])
    on_gpu.activate([Request(adapter, unet=0.7)])
    step = torch.finfo(dtype).eps
    for (name, mine), theirs in zip(state(gpu).items(), state(cpu).values(), strict=True):
        assert torch.allclose(mine.float(), theirs.float(), rtol=2 * step, atol=1e-5), name
    on_gpu.deactivate()
    assert same(state(gpu), before)
    assert on_gpu.verify()


@pytest.mark.parametrize("offload", [True, False])
def test_pristine_weights_may_wait_in_host_memory(tmp_path, offload):
    unet = ldm_unet().cuda()
    before = state(unet)
    first, second = (adapter_for(unet, tmp_path / f"{n}.safetensors", MAKERS["LoRA"], SOME, seed=n) for n in (1, 2))
    session = Session(unet=unet, offload=offload)
    session.activate([Request(first)])
    assert {tensor.is_cuda for tensor in session._merged.pristine().values()} == {not offload}
    session.activate([Request(second)])
    session.deactivate()
    assert same(state(unet), before)
    assert session.verify()
    assert {parameter.device.type for parameter in unet.parameters()} == {"cuda"}


def test_a_model_moved_while_patched_comes_back_where_it_is(tmp_path):
    unet = ldm_unet().cuda()
    before = state(unet)
    session = Session(unet=unet)
    session.activate([Request(adapter_for(unet, tmp_path / "a.safetensors", MAKERS["OFT"], SOME))])
    unet.cpu()
    session.activate([Request(adapter_for(unet, tmp_path / "b.safetensors", MAKERS["IA3"], SOME))])
    unet.cuda()
    session.deactivate()
    assert same(state(unet), before)
    assert session.verify()


def test_host_copies_are_pinned():
    assert to_host(torch.zeros(3, device="cuda")).is_pinned()
