"""Around the tags: names, settings, the picture's text, routes, other hosts, rivals, and the double itself."""

from __future__ import annotations

import inspect
import json
import os
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lib_adapters.files.adapter import open_adapter
from lib_adapters.hosts.webui import conflicts, settings
from lib_adapters.hosts.webui.model_components import components_of
from lib_adapters.hosts.webui.name_resolver import NameResolver
from tests.fake_webui import extra_networks
from tests.fake_webui.checkpoint import Holder
from tests.fake_webui.processing import Drawing
from tests.fake_webui.sample_files import put
from tests.fake_webui.webui import Job
from tests.support.sample_adapters import adapter_file

SYMBOLS = json.loads((Path(__file__).parents[2] / "fake_webui" / "symbols.json").read_text())


def said(job, text):
    return any(text in line for line in job.comments)


@pytest.mark.parametrize("name", ["a b", "v1.5, final", "x=y", "[b] (c) {d}", "墨 ink é", "it's"])
def test_names_that_people_give(webui, name):
    put(webui, name)
    assert said(webui.picture(f"x <lyco:{name}:1>"), "15 of 15 layers")


def test_a_colon_needs_quotes(webui):
    put(webui, "a:b")
    assert said(webui.picture('x <lyco:"a:b":0.5>'), "te 0.5")


def test_a_file_added_later_is_found(webui):
    assert said(webui.picture("<lyco:late>"), "no adapter is called 'late'")
    put(webui, "late")
    assert said(webui.picture("<lyco:late>"), "15 of 15")


def test_a_file_deleted_meanwhile(webui):
    put(webui)
    webui.picture("<lyco:ink>")
    (webui.folder / "LyCORIS" / "ink.safetensors").unlink()
    job = webui.picture("<lyco:ink>")
    assert list(job.comments) == ["<lyco:ink>: no adapter is called 'ink'; put the file into models/LyCORIS."]


def test_a_name_that_is_nearly_right(webui):
    put(webui, "watercolour")
    assert said(webui.picture("<lyco:watercolor>"), "did you mean 'watercolour'")


def test_a_file_that_was_not_applied_leaves_no_hash(webui):
    path = webui.folder / "LyCORIS" / "other.safetensors"
    adapter_file(path, {"down_blocks_9_nothing": (4, 4)})
    job = webui.picture("<lyco:other>")
    assert said(job, "other")
    assert "Lyco hashes" not in job.extra_generation_params


def test_links_in_a_circle_and_a_second_way_to_a_file(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.safetensors").write_bytes(b"")
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    (tmp_path / "y.safetensors").symlink_to(tmp_path / "a" / "x.safetensors")
    names = NameResolver(lambda: {"lyco": [tmp_path], "lora": []}, lambda path: None, open_adapter)
    assert sorted(path.name for path in names.files()) == ["x.safetensors", "y.safetensors"]


def test_extra_folders(webui, tmp_path):
    put(webui, "far", os.path.relpath(tmp_path / "elsewhere", webui.folder))
    webui.shared.opts.lycoris_folders = f" {tmp_path / 'elsewhere'} ; {tmp_path / 'not there'}"
    assert said(webui.picture("<lyco:far>"), "15 of 15")
    assert (webui.folder / "LyCORIS").is_dir()


def test_the_default_adapter_is_in_the_prompt_and_in_the_key_of_the_conditioning(webui):
    put(webui)
    plain = webui.picture("x").image
    webui.shared.opts.lycoris_default = "ink"
    job = webui.picture("x")
    assert job.all_prompts == ["x<lyco:ink:0.5>"]
    assert not torch.equal(job.image, plain)
    assert webui.picture("x <lyco:ink:1>").all_prompts == ["x <lyco:ink:1>"]


def test_a_default_for_the_second_pass_alone_is_not_written_into_the_first(webui):
    put(webui)
    webui.shared.opts.lycoris_default = "ink"
    job = Job(webui, ["a <lyco:ink:1>"])
    _, job.hr_extra_network_data = extra_networks.parse_prompts(["a"])
    job.activate()
    job.is_hr_pass = True
    extra_networks.activate(job, job.hr_extra_network_data)
    assert job.all_prompts == ["a <lyco:ink:1>"]
    assert webui.app.routes["/lycoris/report"]()["adapters"][0]["unet"] == 0.5


def test_the_builtins_default_is_honoured_where_we_have_its_tag(webui):
    put(webui, "ink", "Lora")
    webui.shared.opts.sd_lora = "ink"
    assert webui.picture("x").all_prompts == ["x<lora:ink:0.5>"]


def test_how_much_is_said(webui):
    put(webui)
    prompt = "<lyco:ink><lyco:nobody>"
    assert len(webui.picture(prompt).comments) == 2
    webui.shared.opts.lycoris_report = settings.REPORT_LEVELS[1]
    assert [line for line in webui.picture(prompt).comments if "nobody" not in line] == []
    webui.shared.opts.lycoris_report = settings.REPORT_LEVELS[2]
    assert not webui.picture(prompt).comments


def test_hashes_and_pasting(webui):
    put(webui)
    short = webui._sha256(webui.folder / "LyCORIS" / "ink.safetensors", "", True)[:12]
    text = webui.picture("<lyco:ink>").extra_generation_params["Lyco hashes"]
    assert text == f"ink: {short}"
    pasted = {"Prompt": "a <lyco:old name:0.5:te=1> <lyco:ink:1> <lyco:gone:1>"}
    pasted["Lyco hashes"] = f"old name: {short}, ink: 000000000000, gone: e3b0c44298fc"
    webui.call("infotext_pasted", "", pasted)
    assert pasted["Prompt"] == "a <lyco:ink:0.5:te=1> <lyco:ink:1> <lyco:gone:1>"


def test_a_hash_of_two_files_decides_nothing(webui):
    put(webui), put(webui, "copy")
    short = webui._sha256(webui.folder / "LyCORIS" / "ink.safetensors", "", True)[:12]
    pasted = {"Prompt": "<lyco:old:1>", "Lyco hashes": f"old: {short}"}
    webui.call("infotext_pasted", "", pasted)
    assert pasted["Prompt"] == "<lyco:old:1>"


def test_the_second_pass_adds_its_hashes(webui):
    put(webui), put(webui, "blur")
    job = webui.picture("<lyco:ink>")
    job.is_hr_pass = True
    _, job.hr_extra_network_data = extra_networks.parse_prompts(["<lyco:blur>"])
    extra_networks.activate(job, job.hr_extra_network_data)
    assert [part.split(":")[0] for part in job.extra_generation_params["Lyco hashes"].split(", ")] == ["ink", "blur"]


def with_words(webui, **words):
    put(webui)
    path = webui.folder / "LyCORIS" / "ink.safetensors"
    tensors = load_file(path)
    save_file(tensors | {f"bundle_emb.{name}.{leaf}": torch.ones(2, 4) for name, leaf in words.items()}, path)


def test_words_that_came_with_an_adapter(webui):
    with_words(webui, style="string_to_param.*", other="strange")
    job = webui.picture("<lyco:ink>")
    assert torch.equal(webui.words.word_embeddings["style"].vec, torch.ones(2, 4))
    assert said(job, "its embedding 'other' cannot be used")
    webui.words.word_embeddings.clear()  # the host reads its own anew
    webui.picture("<lyco:ink>")
    assert "style" in webui.words.word_embeddings
    webui.picture("x")
    assert webui.words.word_embeddings == {}


def test_a_word_of_the_users_own_stays_his(webui):
    with_words(webui, style="string_to_param.*")
    webui.words.word_embeddings["style"] = own = object()
    assert said(webui.picture("<lyco:ink>"), "'style' is your own embedding's word")
    webui.picture("x")
    assert webui.words.word_embeddings == {"style": own}


def test_the_second_pass_has_its_own_key_before_conditionings_are_made(webui):
    """The host may compute the second pass's conditioning first, and keeps a reference to its data as the key."""
    put(webui)
    job = Job(webui, ["a <lyco:ink>"])
    _, job.hr_extra_network_data = extra_networks.parse_prompts(["a <lyco:ink>"])
    job.activate()
    assert job.hr_extra_network_data == job.extra_network_data
    before = {kind: list(params) for kind, params in job.hr_extra_network_data.items()}
    job.is_hr_pass = True
    extra_networks.activate(job, job.hr_extra_network_data)
    assert job.hr_extra_network_data == before


def test_the_name_that_the_trainer_gave(webui):
    put(webui, "file")
    path = webui.folder / "LyCORIS" / "file.safetensors"
    save_file(load_file(path), path, metadata={"ss_output_name": "given"})
    assert said(webui.picture("<lora:given:1>"), "15 of 15")


def test_routes(webui):
    put(webui)
    webui.picture("<lyco:ink:0.5>")
    report = webui.app.routes["/lycoris/report"]()
    assert (report["adapters"][0]["name"], report["adapters"][0]["matched"]) == ("ink", 15)
    (told,) = [route.endpoint for route in webui.app.routers[0].routes if route.path == "/lycoris/api/report"]
    assert told() == report
    assert json.loads(json.dumps(report))["lines"][0].startswith("ink: 15 of 15")
    assert [one["name"] for one in webui.app.routes["/sdapi/v1/lycos"]()] == ["ink"]
    assert webui.app.routes["/sdapi/v1/refresh-lycos"]() is None


@pytest.mark.parametrize("relative", ["Forge", "SD.Next"])
def test_relatives_of_the_web_ui_keep_their_tags(webui, monkeypatch, capsys, relative):
    if relative == "Forge":
        forge = types.ModuleType("modules_forge")
        forge.__spec__ = types.SimpleNamespace()
        monkeypatch.setitem(sys.modules, "modules_forge", forge)
    else:
        monkeypatch.setattr(webui.shared, "native", True, raising=False)
    webui.load_scripts()
    assert "lyco" not in extra_networks.extra_network_registry
    assert webui.app.routes == {}
    assert webui.reports == []
    assert capsys.readouterr().out.count("is not served yet") == 1


def test_a_foreign_package_of_the_same_name():
    foreign = types.ModuleType("lib_adapters")
    foreign.__file__ = "/somewhere/else/lib_adapters/__init__.py"
    assert "stays off" in (conflicts.package_conflict(foreign, "/here") or "")
    assert conflicts.package_conflict(foreign, "/somewhere/else") is None


@pytest.mark.parametrize(
    ("folder", "tag"),
    [
        ("sd-webui-loractl", "<{}:ink:1@0,0@1>"),
        ("sd-webui-lora-block-weight", "<{}:ink:1:lbw=OUTS:lbwe=IN05:attn:0.5:start=1:stop=2>"),
        ("sd-webui-lora-block-weight", "<{}:ink:1:step=1-2>"),
        ("stable-diffusion-webui-composable-lora", "<{}:ink:1>"),
    ],
)
def test_nobody_is_advised_to_take_our_handling_away_for_what_works_with_it(webui, folder, tag):
    """What the start-up message says of these keys is what a picture shows."""
    put(webui)
    webui.extensions.active = lambda: [types.SimpleNamespace(name=folder), types.SimpleNamespace(name="Lora")]
    (text,) = conflicts.active_conflicts()
    assert "witch" not in text
    assert "Handle" not in text
    assert "here" in text
    job = webui.picture(tag.format("lora"))
    assert said(job, "ink: ")
    assert not said(job, "unknown")
    assert not said(job, "ignored")
    webui.shared.opts.lycoris_handle_lora = False
    assert "only the built-in's <lora:...>" in conflicts.active_conflicts()[0]


def test_where_text_encoders_are():
    unet, first, second = nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1)
    model = Holder(diffusion_model=unet)
    sizes = nn.Linear(1, 1)
    embedders = [Holder(wrapped=Holder(transformer=first)), Holder(wrapped=Holder(model=second)), sizes]
    sdxl = Holder(model=model, conditioner=Holder(embedders=nn.ModuleList(embedders)))
    assert components_of(sdxl).text_encoders == (first, second)
    sd2 = Holder(model=model, cond_stage_model=Holder(wrapped=Holder(model=second)))
    assert components_of(sd2).text_encoders == (second,)
    sd3 = Holder(model=model, text_encoders=Holder(clip_l=Holder(transformer=first), clip_g=Holder(transformer=second)))
    sd3.text_encoders.t5xxl = None
    assert components_of(sd3).text_encoders == (first, second)
    assert components_of(sd3).unet is unet


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_the_double_has_the_hosts_signatures(webui, symbol):
    module, _, name = symbol.partition(":")
    found = types.SimpleNamespace(StableDiffusionProcessing=Drawing) if "processing" in module else sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part)
    wanted = SYMBOLS[symbol]
    signatures = set(wanted.values()) if isinstance(wanted, dict) else {wanted}
    assert None not in signatures
    if callable(found) and "value" not in signatures:
        assert str(inspect.signature(found)) in signatures


def test_a_foreign_package_without_our_modules(webui, monkeypatch):
    foreign = types.ModuleType("lib_adapters")
    foreign.__path__ = []
    for name in [name for name in sys.modules if name.startswith("lib_adapters")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lib_adapters", foreign)
    webui.load_scripts()
    ((message, error),) = webui.reports
    assert "stays off" in message
    assert isinstance(error, ImportError)
    assert "lyco" not in extra_networks.extra_network_registry
