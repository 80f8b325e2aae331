"""The same for a whole job of the web UI: a fault at each point of what its calls make us do, and of nothing else.

The picture goes on whatever happens, so what counts is that it is either the one that was asked for or one of which
something is said, that the next picture is right, and that nothing of ours stays on the model.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lib_adapters.hosts.webui.aesthetic_encoder import ENCODE_METHOD
from lib_adapters.patching import apply_mode
from tests.fake_webui.sample_files import put, put_text
from tests.integration.webui.test_aesthetic_script import TAG, put_embedding
from tests.integration.webui.test_hypernetwork_handler import put_net
from tests.support.fault_injection import KINDS, Calls, attempt, chosen, is_exhaustive

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
JOB = f"3 4 <lyco:ink:1:0@0,1@1><lyco:words:0.5><hypernet:glow:0.7>{TAG}"  # a curve, a text encoder, and the rest
FOLDER = str(Path("hosts") / "webui")


@pytest.fixture
def filled(webui, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "nothing"))
    for name in ("merge_seconds", "bypass_seconds"):  # on a busy machine a measurement may turn out otherwise
        monkeypatch.setattr(apply_mode, name, lambda *_: 1e-3)
    torch.manual_seed(4)
    (webui.folder / "CLIP").mkdir()
    save_file({"text_projection.weight": torch.randn(16, 24)}, webui.folder / "CLIP" / "model.safetensors")
    put(webui)
    put_text(webui)
    put_net(webui)
    put_embedding(webui, "glow")
    return webui


def points_of(webui, draw):
    """Return places of the web UI's part: every third call in it, or, if exhaustive, every call and return."""
    with Calls() as seen:
        draw()
    first = {}
    for at in chosen(seen.places):
        place = seen.places[at]
        if FOLDER in place[0] and (place[2].endswith("call") or is_exhaustive()):
            first.setdefault(place, at)
    return sorted((at, place) for place, at in first.items())[:: 1 if is_exhaustive() else 3]


class Jobs:
    def __init__(self, webui):
        self.webui = webui
        self.own = {name: value.clone() for name, value in webui.model.state_dict().items()}
        self.wanted, self.plain = self.draw().image, self.draw("3 4").image
        assert not torch.equal(self.wanted, self.plain)

    def draw(self, prompt=JOB):
        return self.webui.draw(prompt, "5", steps=2)

    def forget(self):
        """As after another picture: the host's cache of conditionings is emptied."""
        self.webui.reports.clear()
        for cache in self.webui.caches:
            cache[:] = [None, None, None][: len(cache)]

    def problems(self, job):
        found = []
        told = job is not None and (self.webui.reports or any(is_problem(line) for line in job.comments))
        if job is not None and not torch.equal(job.image, self.wanted) and not told:
            found.append("another picture, and nothing is said")
        if not torch.equal(self.draw().image, self.wanted):
            found.append("the next picture is not right")
        if not torch.equal(self.draw("3 4").image, self.plain):
            found.append("a plain picture is not plain")
        return found if self.clean() else [*found, "something stays"]

    def clean(self):
        model = self.webui.model
        same = all(value.equal(self.own[name]) for name, value in model.state_dict().items())
        hooked = any(m._forward_pre_hooks or m._load_state_dict_pre_hooks for m in model.modules())
        ours = any({"forward", "get_learned_conditioning", ENCODE_METHOD} & vars(m).keys() for m in model.modules())
        return same and not hooked and not ours


def is_problem(line):
    return "LyCORIS" in line or "left as it is" in line or "fault of the test" in line


@pytest.mark.slow
def test_a_job(filled, tried):
    jobs, points, wrong = Jobs(filled), tried("faults in the web UI", "points"), []
    jobs.forget()
    for turn, (at, (file, line, event, called)) in enumerate(points_of(filled, jobs.draw)):
        name, error = list(KINDS.items())[turn % len(KINDS)]
        jobs.forget()
        job, raised = attempt(jobs.draw, Calls(at, error))
        points.add()
        if problems := jobs.problems(job):
            points.fail()
            where = f"{Path(file).name}:{line} {event} {called}"
            wrong.append(f"{name} at {where} ({raised!r}): {', '.join(problems)}")
    assert not wrong, f"{len(wrong)} points\n" + "\n".join(wrong[:60])
