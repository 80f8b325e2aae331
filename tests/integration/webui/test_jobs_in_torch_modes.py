"""A job of each kind in the double of the web UI: in a host's inference mode, in autocast, in neither, in any order."""

from __future__ import annotations

import pytest
import torch

from lib_adapters.patching import apply_mode
from tests.support.state_machines.tiny_webui import furnish, host, tiny
from tests.support.tiny_model_pair import differing, traces
from tests.unit.patching.test_torch_modes import MODES

JOBS = {
    "merged": ("3 4 <lyco:d:0.8><lyco:c:0.5>", {}),
    "window": ("3 4 <lyco:d:1:0@0,1@1><lyco:b:1:stop=1>", {}),
    "measured": ("3 4 <lyco:a:1:0@0,1@1><lyco:e:1:stop=1>", {}),
    "live": ("3 4 <lyco:e:0.6:1@0,0@1:mode=live><lyco:b:1:0@0,1@1:mode=live>", {}),
    "rows": ("3 4 <lyco:a:1> AND 5 6 <lyco:f:0.7><lyco:c:0.5>", {}),
    "hires": ("3 4 <lyco:a:0.8:hr=0.2><lyco:h:0.5>", {"enable_hr": True}),
    "hypernet": ("3 4 <hypernet:glow:0.7>", {}),
    "aesthetic": ("3 4 <aesthetic:glow:0.8:steps=2:lr=0.001>", {}),
}


def close(found, wanted, rough):
    for image, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(image.float(), right, rtol=rough, atol=rough * float(right.abs().max()))


@pytest.mark.parametrize("order", [("inference", "plain", "autocast"), ("no_grad", "inference", "no_grad")], ids=str)
def test_a_job_draws_the_same_in_any_mode_after_any_other(tmp_path, monkeypatch, order):
    tiny(monkeypatch)
    monkeypatch.setattr(apply_mode, "OBVIOUS_RATIO", 1e9)  # both ways are measured
    monkeypatch.setenv("HF_HOME", str(tmp_path / "nothing"))
    webui = host(tmp_path / "models", monkeypatch)
    furnish(webui)
    own, found = {name: value.clone() for name, value in webui.model.state_dict().items()}, {}
    for mode in order:
        for kind, (prompt, options) in JOBS.items():
            with MODES[mode]():
                job = webui.draw(prompt, "5", steps=2, **options)
            assert not webui.reports, (mode, kind)
            assert not [line for line in job.comments if "rror" in line], (mode, kind, job.comments)
            wanted = found.setdefault(kind, job.images)
            close(job.images, wanted, 0.1 if mode == "autocast" else 1e-4)
    assert len({float(images[0].sum()) for images in found.values()}) == len(JOBS)
    webui.draw("3 4")
    assert not differing(webui.model, own)
    assert not traces(webui.model)
