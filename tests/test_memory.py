"""When a GPU has no room for two copies of a weight, and how memory that nobody needs any more is handed back."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lib_adapters.patching import memory
from lib_adapters.patching.memory import bytes_of, is_short, let_go, to_host


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
    assert not is_short(slots)
    gpu.free = 999
    assert is_short(slots)
    assert not is_short(slots[:2])


def test_one_number_too_many_is_too_many(gpu):
    gpu.free, gpu.reserved, gpu.allocated = 0, 0, 0
    assert is_short([slot(1, torch.int8)])


def test_without_a_gpu_nobody_is_asked(monkeypatch):
    monkeypatch.setattr(memory, "_free", lambda: pytest.fail("a machine without a GPU cannot tell"))
    assert not is_short([slot(10**12, is_cuda=False)])
    assert not is_short([])


def test_what_is_in_host_memory_is_there_already():
    tensor = torch.ones(3)
    assert to_host(tensor) is tensor


def test_bytes_are_those_of_the_elements():
    assert [bytes_of(torch.zeros(3, 5, dtype=dtype)) for dtype in (torch.float64, torch.bfloat16)] == [120, 30]


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
    monkeypatch.setattr(memory, "LARGE", 200)
    with torch.inference_mode(inference):
        tensors = [torch.zeros(25), torch.zeros(count), torch.zeros(10**6, device="meta")]
    let_go(tensors)
    assert len(timers) == later
    assert tensors[0].numel() == 25
    for timer in timers:
        timer.act(*timer.given)
        assert [tensor.untyped_storage().nbytes() for tensor in tensors[:2]] == [0, 0]
