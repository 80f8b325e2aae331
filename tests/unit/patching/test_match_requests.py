"""What is told of each file that meets a model: how much of it fits, what else it brings, and why it is refused."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from torch import nn

from lib_adapters import Request
from lib_adapters.patching import match_requests
from lib_adapters.patching.layers import LayerTable
from lib_adapters.patching.match_requests import build_plan
from lib_adapters.prompt.block_weights import BlockWeights
from tests.support.sample_adapters import adapter_for, lora
from tests.unit.patching.test_algorithms_in_session import EXAMPLES, model_of, opened

LINE = (6, 8)


@pytest.fixture
def model():
    return nn.ModuleDict({"conv_in": nn.Conv2d(4, 8, 3), "conv_out": nn.Conv2d(8, 4, 3)})


@pytest.fixture
def adapter(model, tmp_path):
    return adapter_for(model, tmp_path / "ink.safetensors")


def told(model, request, family="unknown"):
    fitted = build_plan(
        [request], replace(LayerTable.from_model(model, ()), family=family), lambda adapter: adapter.load()
    )
    (report,) = fitted.reports
    return report, fitted


@pytest.mark.parametrize(
    ("count", "note"),
    [
        (0, []),
        (1, ["brings embeddings for '0'"]),
        (5, ["brings embeddings for '0', '1', '2', '3', '4'"]),
        (8, ["brings embeddings for '0', '1', '2', '3', '4' and 3 more"]),
    ],
)
def test_embeddings_in_a_file_are_named_as_far_as_a_line_goes(model, adapter, count, note):
    brings = replace(adapter, bundled_embeddings=tuple(map(str, range(count))), notes=("its own",))
    assert told(model, Request(brings))[0].notes == ["its own", *note]


@pytest.mark.parametrize(("dyn", "hints"), [(None, 1), ("timestep", 0), (1, 0)])
def test_a_tlora_is_told_how_it_was_trained_unless_it_is_drawn_so(tmp_path, dyn, hints):
    name = next(name for name in EXAMPLES if name.startswith("tlora"))
    report, _ = told(model_of(EXAMPLES[name].shape), Request(opened(name, tmp_path), dyn=dyn))
    assert (report.error, len(report.notes)) == (None, hints)
    assert all("dyn=timestep" in note for note in report.notes)
    assert told(model_of(LINE), Request(opened("lora", tmp_path)))[0].notes == []


def test_what_was_done_is_counted_and_timed(model, adapter, monkeypatch):
    clock = iter((3.0, 5.5))
    monkeypatch.setattr(match_requests, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    report, fitted = told(model, Request(adapter, 0.5, 0.25, blocks=BlockWeights((("IN00", 0.0),))))
    assert (report.unet, report.te, report.total, report.matched, report.disabled_by_blocks) == (0.5, 0.25, 2, 1, 1)
    assert (report.algorithms, report.unmatched, report.error, report.seconds) == ({"LoRA": 1}, [], None, 2.5)
    assert len(fitted.params) == 1


@pytest.mark.parametrize("family", ["sd1", "sdxl", "unknown"])
@pytest.mark.parametrize("made_for", ["sd1", "sdxl", "unknown"])
@pytest.mark.parametrize("fits", ["wholly", "half", "nowhere"])
def test_what_was_made_for_another_model_is_for_this_one_where_all_of_it_fits(model, adapter, family, made_for, fits):
    """`half`: the other layer is not there. What is not known to be of another family is applied as far as it goes."""
    if fits != "wholly":
        del model["conv_out"]
    if fits == "nowhere":
        del model["conv_in"]
        model["other"] = nn.Linear(2, 2)
    report, fitted = told(model, Request(replace(adapter, family=made_for)), family)
    other = {family, made_for} == {"sd1", "sdxl"}
    if fits == "wholly" or (fits == "half" and not other):
        assert (report.error, report.matched) == (None, len(model))
        assert len(fitted.params) == len(model)
        return
    names = {"sd1": "Stable Diffusion 1.x", "sdxl": "SDXL"}
    sentence = (
        f"ink was made for {names[made_for]}, but this model is {names[family]}: "
        "nothing of it was applied. Use a file made for this model."
        if other
        else "ink: no layer of this model fits the file (this model has no such layer), so nothing of it was applied."
    )
    assert (report.error, report.matched, report.algorithms) == (sentence, 0, {})
    assert len(report.unmatched) == (2 if fits == "nowhere" else 1)
    assert not fitted.params


def test_families_without_a_name_of_their_own_are_told_by_their_key(model, adapter):
    del model["conv_out"]
    report, _ = told(model, Request(replace(adapter, family="new")), "newer")
    assert "ink was made for new, but this model is newer" in report.error


def test_one_that_is_refused_is_none_of_the_others_business(model, adapter, tmp_path):
    other = adapter_for(nn.ModuleDict({"conv_in": nn.Conv2d(4, 9, 3)}), tmp_path / "b.safetensors", lora)
    table = LayerTable.from_model(model, ())
    asked = [Request(other), Request(adapter, rows=frozenset({1}))]
    fitted = build_plan(asked, table, lambda adapter: adapter.load())
    refused, good = fitted.reports
    assert "does not fit a weight of [8, 4, 3, 3]" in refused.error
    assert (good.error, good.matched) == (None, 2)
    assert [(dial.request, dial.component) for dial in fitted.strengths] == [(asked[1], "unet"), (asked[1], "te")]


@pytest.mark.parametrize(
    ("there", "missing", "refused"), [(20, 1, False), (40, 2, False), (19, 1, True), (40, 3, True)]
)
def test_one_layer_too_many_does_not_make_it_another_models_file(tmp_path, there, missing, refused):
    layers = {f"x{n}": nn.Linear(4, 4) for n in range(there + missing)}
    adapter = replace(adapter_for(nn.ModuleDict(layers), tmp_path / "ink.safetensors"), family="sd1")
    model = nn.ModuleDict({name: layer for name, layer in layers.items() if int(name[1:]) < there})
    report, _ = told(model, Request(adapter), "sd2")
    assert bool(report.error) == refused
    assert (report.matched, len(report.unmatched)) == (0 if refused else there, missing)
