"""The same for what steers a prompt or an attention: whatever is raised, the model's own things are in their places."""

from __future__ import annotations

import pytest
import torch

from lib_adapters.conditioning.aesthetic_gradients import optimization_target, optimize_text
from lib_adapters.conditioning.hypernetwork_patcher import (
    HypernetworkPatcher,
    HypernetworkRequest,
    attention_projections,
)
from tests.robustness.test_faults_in_session import Small, same
from tests.support.fault_injection import faults
from tests.support.tiny_models import clip
from tests.unit.conditioning.test_aesthetic_gradients import QUICK, assert_untouched, prompt_of, tokens_of, weights_of
from tests.unit.conditioning.test_hypernetworks import module, save

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.slow
def test_leading_a_prompt(tried):
    """Parameters, the very same objects, and buffers are back before anybody hears of the fault."""
    tower, points = clip(layers=1), tried("faults", "points")
    torch.manual_seed(5)
    aim, projection = optimization_target(torch.randn(1, 16), None, QUICK), torch.randn(16, 24)
    prompt = prompt_of(tower, projection, tokens_of(5, 6, 7))
    before, raised = weights_of(tower), 0
    for name, happen in faults(lambda: None, lambda: optimize_text(tower, prompt, aim, QUICK)):
        raised += happen() is not None
        points.add()
        try:
            assert_untouched(tower, before)
        except AssertionError as error:
            raise AssertionError(name) from error
    assert raised > 100


class Steered:
    """A model whose attention inputs pass through nets."""

    def __init__(self, folder):
        self.model = Small()
        widths = {one.width for one in attention_projections(self.model)}
        self.nets = [self.net(folder / f"{n}.pt", n, widths) for n in range(2)]
        self.active = HypernetworkPatcher(self.model)
        self.latent = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(3))

    def net(self, path, seed, widths):
        torch.manual_seed(seed)
        return save(path, {w: tuple(module(w, [1, 2, 1], "relu") for _ in "kv") for w in widths},
                    activation_func="relu")  # fmt: skip

    def state(self):
        with torch.no_grad():
            return [self.model(self.latent)]

    def hooks(self):
        return sum(len(one._forward_pre_hooks) for one in self.model.modules())


@pytest.mark.parametrize("off", [False, True])
def test_hypernetworks(tmp_path, tried, off):
    bench, points = Steered(tmp_path), tried("faults", "points")
    old, new = (
        [HypernetworkRequest(bench.nets[0])],
        [] if off else [HypernetworkRequest(bench.nets[1], 0.5), HypernetworkRequest(bench.nets[0], 0.1)],
    )
    own = bench.state()

    def prepare():
        bench.active.activate(old)

    def work():
        bench.active.activate(new)

    allowed = []
    for act in (prepare, work):
        act()
        allowed.append(bench.state())
    assert not same(*allowed)
    wrong, raised = [], 0
    for name, happen in faults(prepare, work):
        raised += happen() is not None
        points.add()
        half = not any(same(bench.state(), state) for state in allowed)
        work()
        again = same(bench.state(), allowed[-1])
        bench.active.activate([])
        if half or not again or not same(bench.state(), own) or bench.hooks():
            points.fail()
            wrong.append(f"{name}: {'half way' if half else 'the next is not right'}")
            bench.__init__(tmp_path)
    assert not wrong, "\n".join(wrong[:40])
    assert raised > 50
