"""Check exactness, memory and launches on a GPU; skipped without one.

Run them with `python -m pytest -n 0 tests/unit/patching/test_cuda.py`.
"""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from lib_adapters import Request, Session
from lib_adapters.patching.memory import to_pinned
from tests.support.sample_adapters import MAKERS, adapter_for
from tests.support.tiny_models import ldm_unet

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
    assert {tensor.is_cuda for tensor in session._weight_patcher.originals().values()} == {not offload}
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
    assert to_pinned(torch.zeros(3, device="cuda")).is_pinned()


@pytest.mark.parametrize("offload", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_change_of_strength_allocates_no_second_merged_weight(tmp_path, dtype, offload):
    unet = ldm_unet().to(dtype).cuda()
    first, second = (adapter_for(unet, tmp_path / f"{n}.safetensors", MAKERS["LoRA"], SOME, seed=n) for n in (1, 2))
    session = Session(unet=unet, offload=offload)
    session.activate([Request(second)])
    session.activate([Request(first)])
    touched = [record.ref.tensor() for record in session._weight_patcher.snapshots()]
    largest = max(tensor.numel() for tensor in touched)
    places, before = [tensor.data_ptr() for tensor in touched], torch.cuda.memory_allocated()
    for request in (Request(first, unet=0.5), Request(second, unet=0.5), Request(second, unet=-2.0)):
        torch.cuda.reset_peak_memory_stats()
        session.activate([request])
        assert [record.ref.tensor().data_ptr() for record in session._weight_patcher.snapshots()] == places
        assert torch.cuda.memory_allocated() <= before + 2**16
        assert torch.cuda.max_memory_allocated() <= before + 4 * 4 * largest + 2**20  # float32 copies of one layer


def test_after_off_the_gpu_holds_the_model_and_the_adapter(tmp_path):
    unet = ldm_unet().cuda()
    session = Session(unet=unet, cache_bytes=0)
    adapter = adapter_for(unet, tmp_path / "a.safetensors", MAKERS["LoRA"], SOME)
    session.activate([Request(adapter)])
    session.deactivate()
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        session.activate([Request(adapter)])
        session.deactivate()
        assert torch.cuda.memory_allocated() == before


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 4), (torch.float32, 5)])
def test_few_kernels_merge_a_layer(tmp_path, dtype, most):
    """In half precision one product, and the check for overflow; in float32 the factors are converted too."""
    unet = ldm_unet().to(dtype).cuda()
    adapter = adapter_for(unet, tmp_path / "a.safetensors", MAKERS["LoRA"], SOME)
    session = Session(unet=unet)
    session.activate([Request(adapter)])
    session.activate([Request(adapter, unet=0.9)])
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        session.activate([Request(adapter, unet=0.5)])
        torch.cuda.synchronize()
    kernels = [event for event in found.events() if not event.name.startswith(("Memcpy", "Memset"))]
    assert len(kernels) <= most * len(session._weight_patcher.snapshots()) + 20


@pytest.mark.parametrize("kind", list(MAKERS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_another_strength_has_the_bits_of_a_first_merge(tmp_path, kind, dtype):
    unet, fresh = ldm_unet().to(dtype).cuda(), ldm_unet().to(dtype).cuda()
    adapter = adapter_for(unet, tmp_path / "a.safetensors", MAKERS[kind], SOME)
    changed, first = Session(unet=unet), Session(unet=fresh)
    changed.activate([Request(adapter)])
    changed.activate([Request(adapter, unet=0.5)])
    first.activate([Request(adapter, unet=0.5)])
    assert same(state(unet), state(fresh))
