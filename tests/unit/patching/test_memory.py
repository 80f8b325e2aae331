"""Where merged weights are allocated, when a GPU is short of memory, and how memory is returned to the system."""

from __future__ import annotations

import gc
import mmap
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks.memory import resident
from lib_adapters import Request, Session
from lib_adapters.patching import memory
from lib_adapters.patching.memory import MappedAllocator, free_async, is_low_on_vram, storage_bytes, to_pinned
from tests.support.sample_adapters import adapter_for, lora


def slot(count, dtype=torch.float16, *, is_cuda=True):
    """Of a parameter with so many numbers."""
    size = torch.empty(0, dtype=dtype).element_size()
    parameter = SimpleNamespace(is_cuda=is_cuda, numel=lambda: count, element_size=lambda: size)
    return SimpleNamespace(parameter=lambda: parameter)


@pytest.fixture
def gpu(monkeypatch):
    """One with 1700 bytes that the driver has left or torch holds unused."""
    numbers = SimpleNamespace(free=1500, reserved=500, allocated=300)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (numbers.free, 10**6))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: numbers.reserved)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: numbers.allocated)
    return numbers


def test_a_fifth_more_than_is_needed_must_be_there(gpu):
    gone = SimpleNamespace(parameter=lambda: None)
    slots = [slot(100), gone, slot(200, torch.float32), slot(10**6, is_cuda=False)]  # 1000 bytes of the GPU
    gpu.free = 1000  # 1200 with what torch holds
    assert not is_low_on_vram(slots)
    gpu.free = 999
    assert is_low_on_vram(slots)
    assert not is_low_on_vram(slots[:2])


def test_one_number_too_many_is_too_many(gpu):
    gpu.free, gpu.reserved, gpu.allocated = 0, 0, 0
    assert is_low_on_vram([slot(1, torch.int8)])


def test_without_a_gpu_nobody_is_asked(monkeypatch):
    monkeypatch.setattr(memory, "_free", lambda: pytest.fail("a machine without a GPU cannot tell"))
    assert not is_low_on_vram([slot(10**12, is_cuda=False)])
    assert not is_low_on_vram([])


def test_what_is_in_host_memory_is_there_already():
    tensor = torch.ones(3)
    assert to_pinned(tensor) is tensor


def test_bytes_are_those_of_the_elements():
    assert [storage_bytes(torch.zeros(3, 5, dtype=dtype)) for dtype in (torch.float64, torch.bfloat16)] == [120, 30]


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize(("count", "later"), [(24, False), (25, True)])
def test_much_memory_is_handed_back_later_and_little_at_once(monkeypatch, inference, count, later):
    timers = []

    class Timer:
        def __init__(self, seconds, act, given):
            self.act, self.given = act, given

        def start(self):
            timers.append(self)

    monkeypatch.setattr(memory, "threading", SimpleNamespace(Timer=Timer))
    monkeypatch.setattr(memory, "LARGE_BYTES", 200)
    with torch.inference_mode(inference):
        tensors = [torch.zeros(25), torch.zeros(count), torch.zeros(10**6, device="meta")]
    free_async(tensors)
    assert len(timers) == later
    assert tensors[0].numel() == 25
    for timer in timers:
        timer.act(*timer.given)
        assert [tensor.untyped_storage().nbytes() for tensor in tensors[:2]] == [0, 0]


@pytest.fixture
def mapped(monkeypatch):
    """Weak references to all mappings that are made."""
    made, make = [], memory._mapping

    def noted(size):
        found = make(size)
        made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(memory, "_mapping", noted)
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float64])
def test_tensors_in_a_mapping_are_aligned_and_apart(mapped, dtype):
    mappings = MappedAllocator()
    shapes = [(3, 5), (7,), (2, 3, 3, 3), (1, 1), ()]
    found = [mappings.empty_like(torch.zeros(shape).to(dtype)) for shape in shapes]
    for number, tensor in enumerate(found):
        tensor.copy_(torch.full(tensor.shape, float(number)).to(dtype))
    for number, (tensor, shape) in enumerate(zip(found, shapes, strict=True)):
        assert (tensor.shape, tensor.dtype, tensor.is_contiguous()) == (torch.Size(shape), dtype, True)
        assert tensor.data_ptr() % 64 == 0
        assert tensor.storage_offset() == 0
        assert tensor.untyped_storage().nbytes() == storage_bytes(tensor)  # else saving one would save its neighbours
        assert bool((tensor.float() == number).all())
    assert len(mapped) == 1


def test_a_mapping_goes_with_the_last_of_its_tensors(mapped, monkeypatch):
    monkeypatch.setattr(memory, "CHUNK_BYTES", 4096)
    mappings, like = MappedAllocator(), torch.zeros(256)
    first = [mappings.empty_like(like) for _ in range(4)]
    other, large = mappings.empty_like(like), mappings.empty_like(torch.zeros(5000))
    assert len(mapped) == 3
    del mappings, first[1:]
    gc.collect()
    assert [one() is not None for one in mapped] == [True, True, True]
    del other, first
    gc.collect()
    assert [one() is not None for one in mapped] == [False, False, True]
    assert large.numel() == 5000


def test_where_a_mapping_would_be_no_better_there_is_none(mapped):
    channels_last = torch.zeros(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    others = [channels_last, torch.zeros(3, 5).t(), torch.zeros(3, device="meta"), torch.zeros(0)]
    for tensor in others:
        found = MappedAllocator().empty_like(tensor)
        assert (found.shape, found.stride(), found.device) == (tensor.shape, tensor.stride(), tensor.device)
    assert not mapped


def test_windows_maps_without_flags(monkeypatch):
    monkeypatch.setattr(memory, "mmap", SimpleNamespace(mmap=lambda number, size: mmap.mmap(number, size)))
    assert MappedAllocator().empty_like(torch.zeros(5)).fill_(3).tolist() == [3.0] * 5


def test_without_glibc_nothing_is_trimmed(monkeypatch):
    def missing(_):
        return object()

    monkeypatch.setattr(memory, "ctypes", SimpleNamespace(CDLL=missing))
    memory.trim_heap()


CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[3]
SIDE, LAYERS = 4096, ("conv_in", "conv_out", "time_embed_0")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell")
def test_after_off_the_process_is_as_large_as_before(tmp_path):
    """And while a strength changes, or the file, as large as with one merged copy of the touched weights."""
    model = nn.ModuleDict({name: nn.Linear(SIDE, SIDE, bias=False) for name in LAYERS}).requires_grad_(False)
    a, b = (adapter_for(model, tmp_path / f"{seed}.safetensors", lora, seed=seed) for seed in (1, 2))
    session, touched = Session(unet=model), sum(storage_bytes(one) for one in model.parameters())

    def round_trip():
        for adapter, strength in ((a, 1.0), (a, 0.5), (b, 0.5)):
            session.activate([Request(adapter, unet=strength)])
            assert abs(resident(CPU) - before - touched) < touched / 10
        session.deactivate()
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.join()

    before = resident(CPU)
    for _ in range(2):
        round_trip()
        assert abs(resident(CPU) - before) < touched / 10
        before = resident(CPU)


ENDS_ACTIVE = """
import sys, torch
from torch import nn

from benchmarks.memory import resident
from lib_adapters import Request, Session, open_adapter

model = nn.ModuleDict({"conv_in": nn.Linear(4096, 4096)}).requires_grad_(False)
session = Session(unet=model)
session.activate([Request(open_adapter(sys.argv[1]))])
"""


def test_a_process_ends_while_adapters_are_active(tmp_path):
    """The model is freed while the interpreter shuts down, when no thread can start any more."""
    model = nn.ModuleDict({"conv_in": nn.Linear(4096, 4096)})
    adapter_for(model, path := tmp_path / "a.safetensors", lora)
    command = [sys.executable, "-c", ENDS_ACTIVE, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, "")
