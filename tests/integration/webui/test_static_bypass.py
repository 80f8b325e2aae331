"""`mode=live` at one strength for all steps: a bypass, no merged weight, and the report says so."""

from __future__ import annotations

import pytest
import torch

from lib_adapters import Request, Session
from lib_adapters.patching.patched_forward import PatchedForward
from lib_adapters.prompt.schedule import SamplingStep
from tests.fake_webui.sample_files import put, put_text
from tests.integration.webui.test_sampling_with_schedules import is_clean
from tests.robustness.test_faults_in_session import Small, same
from tests.support.sample_adapters import MAKERS, adapter_for


@pytest.fixture
def adapters(tmp_path):
    return {kind: adapter_for(Small(), tmp_path / f"{kind}.safetensors", MAKERS[kind]) for kind in MAKERS}


def tensors(model):
    return [tensor.clone() for tensor in model.state_dict().values()]


def latent():
    return torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(3))


def drawn(requests):
    """Weights, output and report of a model with these."""
    model = Small()
    session = Session(unet=model)
    report = session.activate(requests, SamplingStep(0, 3))
    session.set_step(SamplingStep(1, 3))
    with torch.no_grad():
        y = model(latent())
    found = tensors(model), y, report, len(session.bypassed_modules())
    assert not session.is_dynamic
    session.deactivate()
    assert same(tensors(model), tensors(Small()))
    assert not any("forward" in vars(module) for module in model.modules())
    return found


@pytest.mark.parametrize("kind", MAKERS)
def test_the_weights_stay_and_the_output_is_that_of_merged_ones(adapters, kind):
    weights, y, report, layers = drawn([Request(adapters[kind], 0.7, mode="live")])
    assert same(weights, tensors(Small()))
    assert layers == 5
    (one,) = report.adapters
    assert (one.mode, one.matched, report.schedule_note) == ("live", 5, "")
    assert one.summary().endswith(", unet 0.7, live")
    for mode in ("auto", "merged"):
        merged, wanted, report, layers = drawn([Request(adapters[kind], 0.7, mode=mode)])
        assert not same(merged, weights)
        assert (report.adapters[0].mode, layers) == ("merged", 0)
        assert "live" not in report.adapters[0].summary()
        torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-4)


def test_a_merged_adapter_stays_merged_under_a_bypass(adapters):
    live, merged = Request(adapters["LoRA"], 0.7, mode="live"), Request(adapters["OFT"], 0.5)
    weights, y, report, _ = drawn([live, merged])
    assert same(weights, drawn([merged])[0])
    assert [one.mode for one in report.adapters] == ["live", "merged"]
    torch.testing.assert_close(y, drawn([Request(adapters["LoRA"], 0.7), merged])[1], rtol=1e-4, atol=1e-4)


def test_a_merged_adapter_on_a_layer_without_a_bypass_is_computed_in_each_run(adapters):
    """OFT has no form that runs beside a layer, so all of that layer is live, and the report of both says so."""
    _, y, report, _ = drawn([Request(adapters["OFT"], 0.7, mode="live"), Request(adapters["LoRA"], 0.5)])
    assert [one.mode for one in report.adapters] == ["live", "live"]
    wanted = drawn([Request(adapters["OFT"], 0.7), Request(adapters["LoRA"], 0.5)])[1]
    torch.testing.assert_close(y, wanted, rtol=1e-4, atol=1e-4)


def test_a_strength_of_0_is_the_absence_of_the_adapter(adapters):
    weights, y, report, layers = drawn([Request(adapters["LoRA"], 0.0, mode="live")])
    assert (layers, report.adapters[0].matched) == (0, 0)
    assert same([*weights, y], [*tensors(Small()), drawn([])[1]])


def test_the_webui_draws_with_a_bypass_and_says_so(webui):
    put(webui), put_text(webui)
    tags = "<lyco:ink:0.8><lyco:words:0.5>"
    wanted = webui.draw(f"3 4 {tags}", "5").image
    webui.draw("3 4")
    seen = []
    layer = webui.model.unet.input_blocks[1]
    handle = layer.register_forward_pre_hook(lambda *_: seen.append(live_in(webui.model)))
    job = webui.draw(f"3 4 {tags.replace('>', ':mode=live>')}", "5")
    handle.remove()
    torch.testing.assert_close(job.image, wanted, rtol=1e-4, atol=1e-4)
    assert len({str(count) for count in seen}) == 1
    assert all(min(counts) > 0 for counts in seen)
    fresh = webui.model.sd_checkpoint_info.state()
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in webui.model.state_dict().items())
    assert [line for line in job.comments if line.startswith("ink: ") and line.endswith("unet 0.8, live")]
    webui.draw("3 4")
    assert is_clean(webui)


def live_in(model):
    """How many layers of the UNet and of the text encoder have a patched forward."""
    return [
        sum(isinstance(getattr(m.forward, "__func__", None), PatchedForward) for m in root.modules())
        for root in (model.unet, model.clip)
    ]
