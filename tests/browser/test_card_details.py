"""The details of a card: what a file is, and what is written beside it."""

from __future__ import annotations

import json
import re

import pytest

from tests.support import browser_library


def fill(folder):
    known = {"activation text": "inkstyle", "my own key": [1, 2], "preferred weight": 0.8}
    browser_library.adapter(folder / "ink.safetensors", sidecar=known)
    browser_library.adapter(folder / "oil.safetensors", metadata=browser_library.training(), algorithm="LoKr")


def test_edit_and_save(own, visit):
    site = own(fill)
    view = visit(site).ready()
    dialog = view.details("ink")
    dialog.get_by_label("Trigger words", exact=True).fill("new words, more")
    dialog.get_by_label("Preferred weight").fill("0.6")
    dialog.get_by_label("Description").fill("line one\nline two")
    dialog.get_by_role("button", name="Save").click()
    view.note("Saved beside the file.")
    stored = json.loads((site.folder / "ink.json").read_text("utf-8"))
    assert stored == {
        "activation text": "new words, more",
        "my own key": [1, 2],
        "preferred weight": 0.6,
        "description": "line one\nline two",
    }
    view.page.keyboard.press("Escape")
    view.press("ink")
    assert view.prompt.input_value() == "<lyco:ink:0.6> new words, more"
    view.search("more", "1 adapter")


def test_nothing_is_typed_while_the_form_is_saved(own, visit):
    """What the server answers takes the form's place, and would take what was typed with it."""
    view = visit(own(fill)).ready()
    dialog = view.details("ink")
    waiting = []
    view.page.route(
        re.compile(r"/cards/\d+$"),
        lambda route: waiting.append(route) if route.request.method == "POST" else route.continue_(),
    )
    dialog.get_by_label("Notes").fill("a note")
    words = dialog.get_by_label("Trigger words", exact=True)
    words.press("Enter")
    view.note("Working…")
    with pytest.raises(Exception, match="Timeout 300ms"):
        words.click(timeout=300)
    waiting.pop().continue_()
    view.note("Saved beside the file.")
    words.click()
    assert dialog.get_by_label("Notes").input_value() == "a note"


def test_a_sidecar_that_is_not_ours_to_overwrite(own, visit):
    site = own(fill)
    (site.folder / "ink.json").write_text("[1, 2, 3]", "utf-8")
    view = visit(site).ready()
    dialog = view.details("ink")
    dialog.get_by_label("Notes").fill("a note")
    dialog.get_by_role("button", name="Save").click()
    view.note("ink.json")
    assert (site.folder / "ink.json").read_text("utf-8") == "[1, 2, 3]"
    assert dialog.get_by_label("Notes").input_value() == "a note"


def test_chips_choose_the_words_of_a_click(hundred, visit):
    view = visit(hundred).ready()
    view.search("name:sets", "1 adapter")
    view.press("sets")
    assert view.prompt.input_value() == "<lyco:sets:1> red dress, hat"
    view.press("sets")
    dialog = view.details("sets")
    dialog.get_by_role("button", name="red dress, hat").click()
    dialog.get_by_role("button", name="blue coat").click()
    dialog.get_by_label("Weight a click writes").fill("0.7")
    assert dialog.locator(".lycoris-written-tag").text_content() == "<lyco:sets:0.7> blue coat"
    view.page.keyboard.press("Escape")
    view.page.reload()
    view.ready().press("sets")
    assert view.prompt.input_value() == "<lyco:sets:0.7> blue coat"


def test_training_tags_can_be_chosen(hundred, visit):
    view = visit(hundred).ready()
    view.search("name:oil", "1 adapter")
    dialog = view.details("oil")
    dialog.get_by_role("button", name="brush strokes").click()
    dialog.get_by_role("button", name="Add to the prompt").click()
    assert view.prompt.input_value() == "<lyco:oil:1> brush strokes"
    assert dialog.get_by_role("button", name="Remove from the prompt").is_visible()


def test_what_a_file_is(hundred, visit):
    view = visit(hundred).ready()
    view.search("name:oil", "1 adapter")
    dialog = view.details("oil")
    assert "Stable Diffusion 1.x" in dialog.locator(".lycoris-facts").first.text_content()
    dialog.get_by_role("button", name="Measure the blocks").click()
    dialog.locator(".lycoris-block").first.wait_for()
    widths = dialog.locator(".lycoris-bar-fill").evaluate_all("bars => bars.map(bar => bar.style.width)")
    assert [width for width in widths if width != "0%"] == ["100%"]
    dialog.get_by_role("button", name="Compute hashes").click()
    dialog.get_by_text("sha256").wait_for()
    dialog.get_by_label("Filter the metadata").fill("modelspec")
    assert dialog.locator(".lycoris-table tr").count() == 1


def test_the_last_picture_becomes_the_preview(own, visit):
    site = own(fill)
    view = visit(site).ready()
    dialog = view.details("oil")
    dialog.get_by_role("button", name="Use the last image").click()
    view.note("The image was saved as the preview.")
    assert (site.folder / "oil.png").read_bytes() == browser_library.picture((200, 60, 60), (64, 64))
    view.page.wait_for_function("document.querySelector('.lycoris-big img').naturalWidth > 0")
    view.page.keyboard.press("Escape")
    view.page.wait_for_function("document.querySelector('.lycoris-grid img').naturalWidth > 0")


def test_without_a_picture_it_says_so(own, visit):
    view = visit(own(fill)).ready()
    view.page.evaluate("document.querySelector('#txt2img_gallery').replaceChildren()")
    view.details("oil").get_by_role("button", name="Use the last image").click()
    view.note("The gallery of this tab has no image")


def test_a_star_stays(own, visit):
    site = own(fill)
    view = visit(site).ready()
    view.card("oil").hover()
    view.card("oil").get_by_role("button", name="Star oil").click()
    view.card("oil").get_by_role("button", name="Unstar oil").wait_for()
    view.page.reload()
    view.ready().tab.locator("[data-part=filters]").click()
    view.tab.locator("[data-chip=Starred]").click()
    assert view.names() == ["oil"]
    assert not list(site.folder.glob("*.star*"))


def test_a_file_that_is_gone_is_told(own, visit):
    site = own(fill)
    view = visit(site).ready()
    (site.folder / "oil.safetensors").unlink()
    view.card("oil").hover()
    view.card("oil").get_by_role("button", name="Details of oil").click()
    view.dialog.get_by_text("is not there any more").wait_for()
