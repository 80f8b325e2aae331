"""The editor of block-weight presets: sliders and text are the same list, and what is saved is in the user's file."""

from __future__ import annotations

import pytest

from tests.support import browser_library

HOSTILE = "x'><img src=x onerror='window.hurt = 1'>"
LIST = "1,0,0,0,1,1,1,0,0,0,0,0"


@pytest.fixture
def site(own):
    return own(lambda folder: browser_library.adapter(folder / "ink.safetensors"))


@pytest.fixture
def view(site, visit):
    view = visit(site).ready()
    view.write("<lyco:ink:0.8>")
    return view


def opened(view):
    view.tab.get_by_role("button", name="Edit presets").click()
    view.dialog.locator(".lycoris-preset-item").first.wait_for()
    return view.dialog


def choose(dialog, name):
    dialog.locator(".lycoris-preset-item").get_by_text(name, exact=True).click()


def save(view):
    view.dialog.get_by_role("button", name="Save").click()
    view.note("Saved.")


def saved(site):
    return site.presets.listing().own_presets


def test_a_slider_moves_its_number_in_the_text(view, site):
    dialog = opened(view)
    choose(dialog, "OUTS")
    assert dialog.get_by_text("a change makes it your own").is_visible()
    before = dialog.locator(".lycoris-graph-line").get_attribute("d")
    dialog.get_by_label("IN01, slider").fill("0.5")
    raw = dialog.get_by_label("As text")
    assert raw.input_value() == "1,0.5,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1"
    assert dialog.get_by_label("IN01: a number, R, U or X").input_value() == "0.5"
    assert dialog.locator(".lycoris-graph-line").get_attribute("d") != before
    save(view)
    assert dict(saved(site).blocks) == {"OUTS": raw.input_value()}
    assert dialog.get_by_text("Your own.").is_visible()
    dialog.get_by_role("button", name="Delete").click()
    save(view)
    assert not saved(site).blocks
    choose(dialog, "OUTS")
    assert raw.input_value() == "1,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1"


def test_nothing_is_edited_before_the_list_is_there_or_while_it_is_saved(view, site):
    """The answer takes the place of what was typed: a slow server threw the user's edits away."""
    waiting = []
    view.page.route("**/lycoris/api/presets", lambda route: waiting.append(route))
    view.tab.get_by_role("button", name="Edit presets").click()
    answer_late(view, waiting, "Loading…")
    choose(view.dialog, "ALL")
    name = view.dialog.get_by_label("Name")
    name.fill("mine")
    name.press("Shift+Tab")
    view.dialog.get_by_role("button", name="Save").click()
    answer_late(view, waiting, "Saving…")
    view.note("Saved.")
    assert list(saved(site).blocks) == ["mine"]


def answer_late(view, waiting, said):
    """Until then a click on the list is to no effect."""
    view.note(said)
    with pytest.raises(Exception, match="Timeout 300ms"):
        view.dialog.locator(".lycoris-preset-item").first.click(timeout=300)
    waiting.pop().continue_()
    view.dialog.locator(".lycoris-preset-main:not([inert])").wait_for()


def test_random_and_inherited_values_survive(view, site):
    dialog = opened(view)
    dialog.get_by_role("button", name="New").click()
    dialog.get_by_label("Name").fill("mine")
    raw = dialog.get_by_label("As text")
    raw.fill("R,U,X, X+0.1,0;0,0,0,0,0,0,1")
    assert dialog.get_by_label("IN07: a number, R, U or X").input_value() == "X+0.1"
    assert dialog.get_by_label("BASE, slider").is_disabled()
    dialog.get_by_label("OUT05, slider").fill("0.25")
    assert raw.input_value() == "R,U,X, X+0.1,0,0,0,0,0,0,0,0.25"
    dialog.get_by_label("OUT00: a number, R, U or X").fill("U")
    word = dialog.get_by_label("OUT01: a number, R, U or X")
    word.fill("what")
    assert word.get_attribute("aria-invalid") == "true"
    save(view)
    assert saved(site).blocks == {"mine": "R,U,X, X+0.1,0,0,U,0,0,0,0,0.25"}
    view.page.keyboard.press("Escape")
    view.tab.get_by_label("Block preset of ink").select_option("mine")
    assert view.prompt.input_value() == "<lyco:ink:0.8:lbw=mine>"


def test_a_list_of_another_length_keeps_the_blocks_they_share(view):
    dialog = opened(view)
    choose(dialog, "OUTS")
    length = dialog.get_by_label("Length of the list")
    assert "26: SD 1, all blocks (this model)" in length.locator("option").all_text_contents()
    length.select_option("26")
    assert dialog.get_by_label("As text").input_value() == "1," + "0," * 20 + "1,1,1,1,1"
    assert dialog.locator(".lycoris-block-row").count() == 26
    dialog.get_by_label("As text").fill("IN05-OUT03:0.5")
    dialog.get_by_text("Not a list of numbers").wait_for()
    assert dialog.locator(".lycoris-block-row").count() == 0


def test_rules_for_kinds_of_layers_are_lines(view, site):
    dialog = opened(view)
    dialog.get_by_role("button", name="Layers").click()
    choose(dialog, "ATTNDEEPON")
    dialog.get_by_role("button", name="Duplicate").click()
    dialog.get_by_label("Rules").fill("IN05:attn:0.5\n\nMID:NOT ff:0")
    save(view)
    assert saved(site).elements == {"ATTNDEEPON copy": "IN05:attn:0.5,MID:NOT ff:0"}
    assert not saved(site).blocks


def test_the_files_of_lora_block_weight_are_pasted(view, site):
    dialog = opened(view)
    dialog.get_by_role("button", name="Whole file").click()
    whole = dialog.get_by_label("The whole file")
    assert whole.input_value() == ""
    whole.fill(f"# theirs\nOUTS: {LIST}\nmine:{LIST}\n\nSOFT:IN05-OUT05:attn:0.5\nnothing here\n")
    view.note("Not a preset, skipped: nothing here")
    save(view)
    assert saved(site).blocks == {"OUTS": LIST, "mine": LIST}
    assert saved(site).elements == {"SOFT": "IN05-OUT05:attn:0.5"}
    assert whole.input_value() == f"OUTS:{LIST}\nmine:{LIST}\n[lbwe]\nSOFT:IN05-OUT05:attn:0.5"
    dialog.get_by_role("button", name="Blocks").click()
    assert dialog.get_by_label("OUTS, your own").is_visible()
    assert dialog.get_by_label("ALL", exact=True).is_visible()


def test_what_the_server_refuses_is_said_and_nothing_is_lost(view, site):
    dialog = opened(view)
    dialog.get_by_role("button", name="New").click()
    for name, text, said in (("a:b", LIST, "'a:b' cannot be"), ("good", "1,2,3", "good: ")):
        dialog.get_by_label("Name").fill(name)
        dialog.get_by_label("As text").fill(text)
        dialog.get_by_role("button", name="Save").click()
        view.note(said)
        assert dialog.get_by_label("As text").input_value() == text
    assert not saved(site).blocks
    view.page.keyboard.press("Escape")
    view.note("not saved")
    dialog.get_by_role("button", name="Close").click()
    dialog.wait_for(state="detached")
    focused = view.page.evaluate("document.activeElement.textContent")
    assert focused == "Edit presets"


def test_a_name_that_was_built_in_stays_beside_its_copy(view, site):
    dialog = opened(view)
    choose(dialog, "ALL")
    dialog.get_by_label("Name").fill("mine")
    save(view)
    assert list(saved(site).blocks) == ["mine"]
    assert dialog.get_by_label("ALL", exact=True).is_visible()


def test_names_are_text(view, site):
    site.presets.path.parent.mkdir(exist_ok=True)
    name = HOSTILE.replace("=", "").replace("<", "").replace(">", "")
    site.presets.path.write_text(f"{name}:{LIST}\n{HOSTILE}:{LIST}\n[lbwe]\n{name}:IN05:attn:1\n", "utf-8")
    view.page.reload()
    view.ready().write(f"<lyco:ink:0.8:lbw={name}>")
    assert view.tab.get_by_label("Block preset of ink").locator("option:checked").text_content() == name
    dialog = opened(view)
    view.note("line 2: ")
    choose(dialog, name)
    assert dialog.get_by_label("Name").input_value() == name
    dialog.get_by_role("button", name="Whole file").click()
    assert view.page.evaluate("window.hurt") is None
    assert dialog.locator("img").count() == 0


@pytest.mark.parametrize(("width", "dark"), [(1280, 0), (1280, 1), (360, 0)])
def test_how_it_looks(site, visit, tmp_path, width, dark):
    view = visit(site, width=width, height=800, query=f"?dark={dark}").ready()
    view.write("<lyco:ink:0.8>")
    dialog = opened(view)
    choose(dialog, "MIDD")
    assert dialog.locator(".lycoris-preset-form").evaluate("node => node.scrollWidth <= node.clientWidth")
    assert dialog.evaluate("node => node.scrollWidth <= node.clientWidth")
    view.page.screenshot(path=str(tmp_path / f"presets-{width}-{dark}.png"))
