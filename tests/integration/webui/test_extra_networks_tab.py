"""The LyCORIS tab inside the web UI: its page on every release, its routes, its axes of the X/Y/Z plot."""

from __future__ import annotations

import html
import json
import re
import threading
from types import SimpleNamespace

import pytest
from torch import nn

from tests.fake_webui.extra_networks_ui import RELEASES, Grid
from tests.fake_webui.sample_files import put
from tests.fake_webui.webui import WebUI

pytest.importorskip("fastapi")
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lib_adapters.hosts.webui import settings, xyz_grid

API = "/lycoris/api"


@pytest.fixture(params=RELEASES)
def release(request, tmp_path, monkeypatch):
    return WebUI(tmp_path / "models", monkeypatch, release=request.param)


def page_of(webui):
    (page,) = [page for page in webui.pages.extra_pages if page.title == "LyCORIS"]
    return page


def client_of(webui):
    app = FastAPI()
    for router in webui.app.routers:
        app.include_router(router)
    return TestClient(app)


def cards_of(webui):
    """As they are after the host's own Refresh."""
    page = page_of(webui)
    page.tab.library.wait(20)
    page.refresh()
    page.tab.library.wait(20)
    return client_of(webui).get(f"{API}/cards").json()


def attributes(shell):
    return {key: html.unescape(value) for key, value in re.findall(r'data-(\w+)="([^"]*)"', shell)}


def test_the_tab_is_there_before_and_after_a_browser_opens_the_page(release):
    for tabname in ("txt2img", "img2img"):
        ui = release.pages.create_ui(tabname)
        (place,) = [number for number, name in enumerate(ui.ids) if name == "lycoris"]
        built = ui.shown[place].value
        ui.load()
        shell = ui.shown[place].value
        assert built in (shell, "Loading...")
        assert (built == "Loading...") == release.pages.lazy
        ui.refresh()
        assert ui.shown[place].value == shell  # the same text: what the cards are drawn into stays
        assert ui.set_up()
        assert attributes(shell)["name"] == tabname
        assert json.loads(attributes(shell)["negatives"])[0] == f"#{tabname}_neg_prompt textarea"


def test_a_click_may_go_into_the_second_pass_where_there_is_one(webui):
    page = page_of(webui)
    boxes = json.loads(attributes(page.create_html("txt2img"))["prompts"])
    assert boxes == ["#txt2img_prompt textarea", "#hires_prompt textarea"]
    assert json.loads(attributes(page.create_html("img2img"))["prompts"]) == ["#img2img_prompt textarea"]
    assert attributes(page.create_html("img2img"))["gallery"] == "#img2img_gallery"


def test_nothing_is_listed_for_the_page(release):
    put(release), put(release, "broken")
    ui = release.pages.create_ui("txt2img")
    ui.load()
    assert page_of(release).items == {}
    assert page_of(release).list_items() == []
    with pytest.raises(AttributeError):  # the host's answer to a card that no page has
        release.pages.get_single_card("no such card", "lycoris")
    assert page_of(release).items == {}


def test_there_is_one_tab_however_often_the_ui_is_made(release):
    before = page_of(release)
    release.call("before_ui", backwards=True)
    assert page_of(release) is before
    release.reload_ui()
    assert page_of(release) is not before


def test_the_files_of_both_folders_are_cards(webui):
    put(webui), put(webui, "blur", "Lora")
    answer = cards_of(webui)
    assert sorted(card["name"] for card in answer["cards"]) == ["blur", "ink"]
    assert answer["folders"] == ["LyCORIS", "Lora", "hypernetworks"]
    assert (answer["family"], answer["family_name"]) == ("sd1", "Stable Diffusion 1.x")


def test_the_lora_folder_can_be_left_out(webui):
    put(webui), put(webui, "blur", "Lora")
    webui.shared.opts.lycoris_show_lora = False
    answer = cards_of(webui)
    assert [card["name"] for card in answer["cards"]] == ["ink"]
    assert answer["folders"] == ["LyCORIS", "hypernetworks"]
    assert any("blur: 15 of 15" in line for line in webui.picture("<lora:blur>").comments)


def test_folders_of_one_name_are_told_apart(webui, tmp_path):
    webui.shared.opts.lycoris_folders = f"{tmp_path / 'other' / 'Lora'}"
    labels = [label for label, _ in settings.tab_folders()]
    assert labels == ["LyCORIS", str(tmp_path / "other" / "Lora"), str(webui.folder / "Lora"), "hypernetworks"]


def test_asking_for_the_model_loads_none(webui):
    webui.sd_models.model_data.sd_model = None
    assert client_of(webui).get(f"{API}/cards").json()["family"] == ""
    webui.sd_models.model_data.sd_model = nn.Linear(1, 1)
    assert client_of(webui).get(f"{API}/cards").json()["family"] == ""


def test_the_family_is_worked_out_once_per_model(webui, monkeypatch):
    client = client_of(webui)
    client.get(f"{API}/cards")
    monkeypatch.setattr("lib_adapters.hosts.webui.library_backend.family_of", None)
    assert client.get(f"{API}/cards").json()["family"] == "sd1"


def test_what_a_picture_used_is_known(webui):
    put(webui), put(webui, "other")
    assert not any("used" in card for card in cards_of(webui)["cards"])
    webui.picture("<lyco:ink><lyco:nobody>")
    used = {card["name"] for card in cards_of(webui)["cards"] if card.get("used")}
    assert used == {"ink"}


def test_the_routes_answer_while_a_picture_is_made(webui):
    """Handlers of the page run beside a job, which holds the host's lock."""
    put(webui)
    cards_of(webui)
    answers: list[int] = []
    client = client_of(webui)
    with webui.call_queue.queue_lock:
        asking = threading.Thread(target=lambda: answers.append(client.get(f"{API}/cards").status_code))
        asking.start()
        asking.join(20)
    assert answers == [200]


def test_a_host_with_a_password_lets_the_page_in_by_its_key(webui):
    webui.shared.cmd_opts.api_auth = "ann:secret,bob:x"
    webui.load_scripts()
    client = client_of(webui)
    assert client.get(f"{API}/cards").status_code == 401
    assert client.get(f"{API}/cards", auth=("bob", "x")).status_code == 200
    key = attributes(page_of(webui).create_html("txt2img"))["key"]
    assert client.get(f"{API}/cards", headers={"X-Lycoris-Key": key}).status_code == 200


def test_the_passwords_of_the_page_itself_count_too(webui):
    webui._module("initialize_util", get_gradio_auth_creds=lambda: iter([("eve", "y"), ("broken",)]))
    webui.load_scripts()
    client = client_of(webui)
    assert client.get(f"{API}/cards").status_code == 401
    assert client.get(f"{API}/cards", auth=("eve", "y")).status_code == 200


def test_the_list_for_other_programs(webui):
    put(webui)
    (whole,) = webui.app.routes["/sdapi/v1/lycos"]()
    assert (whole["name"], whole["alias"], whole["path"]) == (
        "ink",
        "ink",
        str(webui.folder / "LyCORIS" / "ink.safetensors"),
    )
    (short,) = webui.app.routes["/sdapi/v1/lycos"](metadata=False)
    assert short == {key: value for key, value in whole.items() if key != "metadata"}


def job_of(prompt="a cat", hires=""):
    return SimpleNamespace(prompt=prompt, hr_prompt=hires, negative_prompt="")


def apply(webui, job, *cells):
    """The axes of one cell, in the order in which the user chose them."""
    for label, value in cells:
        webui.grid.axis(f"[LyCORIS] {label}").apply(job, value, [value])
    return job.prompt


def test_axes_change_the_first_tag_alone(webui):
    put(webui), put(webui, "blur")
    prompt = "a <lyco:ink:0.5> cat <lora:two:0.3>"
    assert apply(webui, job_of(prompt), ("Weight", 0.8)) == "a <lyco:ink:0.8> cat <lora:two:0.3>"
    assert apply(webui, job_of(prompt), ("TE weight", -1.0)) == "a <lyco:ink:-1:0.5> cat <lora:two:0.3>"
    assert apply(webui, job_of(prompt), ("UNet weight", 0.25)) == "a <lyco:ink:0.5:0.25> cat <lora:two:0.3>"
    assert apply(webui, job_of(prompt), ("Adapter", "blur")) == "a <lyco:blur:0.5> cat <lora:two:0.3>"
    assert apply(webui, job_of(prompt), ("Adapter", "None")) == "a  cat <lora:two:0.3>"
    assert apply(webui, job_of("<lora:x:1:dyn=4>"), ("Adapter", "a:b")) == '<lora:"a:b":1:dyn=4>'


@pytest.mark.parametrize("cells", [(("Adapter", "ink"), ("Weight", 0.5)), (("Weight", 0.5), ("Adapter", "ink"))])
def test_a_prompt_without_a_tag_gets_one_in_either_order(webui, cells):
    put(webui)
    assert apply(webui, job_of(), *cells) == "a cat<lyco:ink:0.5>"


def test_none_and_a_weight_make_a_tag_for_nobody(webui):
    prompt = apply(webui, job_of("<lyco:ink:1>"), ("Adapter", "None"), ("Weight", 0.5))
    (said,) = webui.picture(prompt).comments
    assert said == f"{prompt}: None stands for no adapter, so this tag changes nothing."


def test_the_second_pass_changes_with_the_first(webui):
    job = job_of("<lyco:ink:1>", "b <lyco:ink:1>")
    apply(webui, job, ("Weight", 0.5))
    assert (job.prompt, job.hr_prompt) == ("<lyco:ink:0.5>", "b <lyco:ink:0.5>")
    job = job_of(["<lyco:ink:1>", "x"])
    apply(webui, job, ("Weight", 0.5))
    assert (job.prompt, job.hr_prompt) == (["<lyco:ink:0.5>", "x<lyco:None:0.5>"], "")


def test_tags_that_are_the_builtins_stay_as_they_are(webui):
    webui.shared.opts.lycoris_handle_lora = False
    assert apply(webui, job_of("<lora:x:1><lyco:y:1>"), ("Weight", 0.5)) == "<lora:x:1><lyco:y:0.5>"


def test_an_unknown_adapter_stops_the_plot_before_its_first_picture(webui):
    put(webui)
    axis = webui.grid.axis("[LyCORIS] Adapter")
    axis.confirm(job_of(), ["None", "ink"])
    with pytest.raises(RuntimeError, match="no adapter is called 'nobody'"):
        axis.confirm(job_of(), ["ink", "nobody"])
    assert axis.choices() == ["None", "ink"]


def test_axes_are_there_once(webui):
    before = [option.label for option in webui.grid.axis_options]
    webui.call("before_ui", backwards=True)
    assert [option.label for option in webui.grid.axis_options] == before
    assert [option.type for option in webui.grid.axis_options[1:]] == [
        str,
        *(kind for kind, _ in xyz_grid.AXIS_CHANGES.values()),
    ]
    webui.reload_ui()
    assert [option.label for option in webui.grid.axis_options] == before


def test_a_host_without_the_plot_has_no_axes(webui):
    other = Grid("scripts.xyz_grid")  # as one release names it
    webui.scripts.scripts_data[:] = [Grid("something_else.py").data(), other.data()]
    webui.call("before_ui", backwards=True)
    assert len(other.axis_options) == 2 + len(xyz_grid.AXIS_CHANGES)
    webui.scripts.scripts_data.clear()
    assert xyz_grid._grid() is None


def test_the_settings_offer_names_but_never_thousands(webui, monkeypatch):
    put(webui), put(webui, "blur", "Lora")
    option = webui.shared.options_templates["lycoris_default"]
    assert option.component_args() == {"choices": ["None", "blur", "ink"]}  # the host updates the component with it
    assert option.component.keywords == {"allow_custom_value": True}
    monkeypatch.setattr(settings, "MAX_CHOICES", 1)
    assert option.component_args()["choices"] == ["None", "blur"]


def test_presets_are_the_users_own_and_those_of_lora_block_weight(webui):
    data = webui.folder / "data"
    theirs = data / "extensions" / "sd-webui-lora-block-weight" / "scripts"
    theirs.mkdir(parents=True)
    (theirs / "lbwpresets.txt").write_text("THEIRS:1,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1\n", "utf-8")
    (theirs / "elempresets.txt").write_text("LESS:IN05-OUT05:attn:0.5\n", "utf-8")
    client = client_of(webui)
    listed = client.get(f"{API}/presets").json()
    assert {"THEIRS", "OUTS"} <= {one["name"] for one in listed["presets"]}
    assert "LESS" in {one["name"] for one in listed["elements"]}
    saved = client.post(f"{API}/presets", json={"presets": [{"name": "mine", "text": "IN05"}], "elements": []})
    assert (saved.status_code, [one["name"] for one in saved.json()["presets"] if one["own"]]) == (200, ["mine"])
    assert (data / "lycoris_presets.txt").read_text("utf-8") == "mine:IN05\n"
    put(webui)
    webui.picture("<lyco:ink:0.5>, <lyco:gone>")
    report = client.get(f"{API}/report").json()
    assert report["problems"][0].startswith("<lyco:gone>: ")
    assert report["adapters"][0]["line"].startswith("ink: 15 of 15")
