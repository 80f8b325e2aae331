"""What users of the API and of other extensions hear: problems in the picture's text, the report of their own job."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lib_adapters.algorithms import ALGORITHMS
from lib_adapters.hosts.webui import settings
from lib_adapters.hosts.webui.builtin_lora import BUILTIN_DIFFERENCES, BuiltinDifferences
from lib_adapters.session import AdapterReport
from tests.fake_webui.processing import Drawing
from tests.fake_webui.sample_files import put
from tests.integration.webui.test_aesthetic_script import put_embedding
from tests.support.sample_adapters import adapter_for, ia3


def told(webui):
    return webui.app.routes["/lycoris/report"]()


@pytest.mark.parametrize(
    ("tag", "key", "sentence"),
    [
        ("<lyco:nobody>", "Lyco problems", "no adapter is called 'nobody'"),
        ("<lora:ink:much>", "Lyco problems", "'much' is not a finite number"),
        ("<hypernet:nobody>", "Hypernet problems", "no hypernetwork is called 'nobody'"),
        ("<aesthetic:nobody>", "Aesthetic problems", "no aesthetic embedding is called 'nobody'"),
    ],
)
def test_the_answer_of_the_api_says_what_went_wrong(webui, tag, key, sentence):
    put(webui)
    answer = webui.draw(f"a cat <lyco:ink>{tag}").api_answer()
    assert tag in answer["extra_generation_params"][key]
    assert sentence in answer["extra_generation_params"][key]
    assert sentence in answer["infotexts"][0][key]
    assert not [name for name in webui.draw("a cat <lyco:ink>").extra_generation_params if "problems" in name]


def test_all_problems_of_both_passes_are_there_once(webui):
    put(webui)
    prompt = "<lyco:one><lyco:ink>"
    job = webui.draw(prompt, enable_hr=True, hr_prompt=f"{prompt}<lyco:two>")
    text = job.extra_generation_params["Lyco problems"]
    assert (text.count("<lyco:one>:"), text.count("<lyco:two>:")) == (1, 1)


def test_each_batch_has_its_own(webui):
    put(webui)
    job = webui.draw(["<lyco:nobody>", "<lyco:ink>"], n_iter=2)
    assert ["Lyco problems" in text for text in job.infotexts] == [True, False]


@pytest.mark.parametrize("level", settings.REPORT_LEVELS)
def test_who_wants_to_hear_nothing_has_nothing_in_the_text(webui, level):
    webui.shared.opts.lycoris_report = level
    assert ("Lyco problems" in webui.draw("<lyco:nobody>").extra_generation_params) is (level != "nothing")


def test_a_failure_in_the_middle_is_in_the_text_too(webui, monkeypatch):
    put(webui)
    monkeypatch.setattr("lib_adapters.session.build_plan", lambda *_: (_ for _ in ()).throw(MemoryError("no room")))
    assert "no room" in webui.draw("<lyco:ink>").infotexts[0]["Lyco problems"]


class Detailer:
    """As ADetailer: behind each picture it draws one of its own, with a prompt of its own, inside the same job."""

    def __init__(self, prompt):
        self.prompt, self.inside = prompt, False

    def process(self, p, *args):
        pass

    def postprocess_image(self, p, pp, *args):
        if not self.inside:
            self.inside = True
            Drawing(p.host, self.prompt).process_images()
            self.inside = False


@pytest.mark.parametrize("inner", ["<lyco:face><lyco:gone>", "no tags"])
@pytest.mark.parametrize("batches", [1, 2])
def test_the_report_of_a_job_stays_when_another_is_drawn_inside_it(webui, inner, batches):
    put(webui), put(webui, "face", seed=3)
    plain = webui.draw("a <lyco:ink>", n_iter=batches).images
    webui.always_on.append(Detailer(inner))
    job = webui.draw("a <lyco:ink><lyco:nobody>", n_iter=batches)
    report = told(webui)
    assert [one["name"] for one in report["adapters"]] == ["ink"]
    assert ["nobody" in line for line in report["problems"]] == [True]
    assert [one["name"] for one in report["inner"]["adapters"]] == (["face"] if "face" in inner else [])
    assert "nobody" in job.extra_generation_params["Lyco problems"]
    assert all(one.equal(other) for one, other in zip(job.images, plain, strict=True))
    webui.always_on.pop()
    webui.draw("a <lyco:face>")
    assert [one["name"] for one in told(webui)["adapters"]] == ["face"]
    assert "inner" not in told(webui)


def test_the_report_of_a_job_without_tags_is_not_kept(webui):
    """The host never says that such a job is done; an X/Y/Z plot draws the next picture in the same job of the host."""
    put(webui)
    webui.shared.state.begin("xyz")
    Drawing(webui, "a cat").process_images()
    Drawing(webui, "a <lyco:ink>").process_images()
    Drawing(webui, "b <lyco:nobody>").process_images()
    assert told(webui)["adapters"] == []
    assert "inner" not in told(webui)


def glora(shape, generator):
    def factor(rows, columns):
        return torch.randn(rows, columns, generator=generator) * 0.1

    out, columns = shape[:2]
    factors = {"a1": factor(columns, 2), "a2": factor(2, columns), "b1": factor(out, 2), "b2": factor(2, columns)}
    return {f"{name}.weight": one for name, one in factors.items()} | {"alpha": torch.tensor(1.0)}


def strange(webui, maker, name="strange"):
    path = webui.folder / "LyCORIS" / f"{name}.safetensors"
    return adapter_for(webui.model.unet, path, maker, ("input_blocks.1.1.proj_in", "input_blocks.1.1.transformer"))


def differing(job):
    return [line for line in job.comments if "differs from the built-in Lora" in line]


def test_what_the_built_in_computes_otherwise_is_told_the_first_time(webui):
    strange(webui, ia3), strange(webui, ia3, "second"), strange(webui, glora, "other"), put(webui)
    assert differing(webui.draw("<lora:ink>")) == []
    assert differing(webui.draw("<lyco:strange>")) == []
    (line,) = differing(webui.draw("<lora:strange>"))
    assert line.startswith("strange: IA3 ")
    assert line in told(webui)["lines"]
    assert "does not change biases" in line
    assert 'switch off "Handle <lora:...> as well"' in line
    assert differing(webui.draw("<lora:strange>")) == differing(webui.draw("<lora:second>")) == []
    assert differing(webui.draw("<lora:other:0.5>"))[0].startswith("other: GLoRA ")


def test_each_algorithm_that_differs_is_told_once():
    told = BuiltinDifferences()
    reports = [AdapterReport("one", 1.0, 1.0, algorithms={label: 1, "LoRA": 2}) for label in BUILTIN_DIFFERENCES]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lib_adapters.hosts.webui.webui_modules.builtin_networks", lambda: object())
        job = Drawing(SimpleNamespace(caches=[None] * 4), "")
        lines = told.notes(job, reports)
        assert [line.split(" is computed")[0] for line in lines] == [f"one: {label}" for label in BUILTIN_DIFFERENCES]
        assert told.notes(job, reports) == lines  # the host calls for each kind of tag
        assert told.notes(Drawing(SimpleNamespace(caches=[None] * 4), ""), reports) == []
    assert BUILTIN_DIFFERENCES.keys() <= {one.label for one in ALGORITHMS}


def test_without_the_built_in_nothing_differs_from_it(alone):
    strange(alone, ia3)
    assert differing(alone.draw("<lora:strange>")) == []


def test_an_aesthetic_that_cannot_be_used_is_in_the_text(webui):
    put_embedding(webui, "wide", width=5)
    assert "wide" in webui.draw("<aesthetic:wide>").infotexts[0]["Aesthetic problems"]
