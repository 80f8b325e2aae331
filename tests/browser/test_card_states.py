"""What cards look like when something is wrong, on a phone, in the dark; two tabs, reloads, and an index at work."""

from __future__ import annotations

import threading

import torch

from tests.support import browser_library

WIDE = "() => document.documentElement.scrollWidth"


def test_a_broken_file_is_a_card_with_its_reason(hundred, visit):
    view = visit(hundred).ready()
    view.search("is:broken", "1 adapter")
    reason = view.card("broken").locator(".lycoris-reason")
    assert "neither a safetensors file nor" in reason.text_content()
    view.card("broken").hover()
    view.card("broken").get_by_role("button", name="Details of broken").click()
    view.dialog.locator(".lycoris-failure").get_by_text("neither a safetensors file nor").wait_for()


def test_a_file_for_another_model_is_greyed_says_why_and_still_works(hundred, visit):
    view = visit(hundred).ready()
    view.search("name:flat", "1 adapter")
    card = view.card("flat")
    assert card.get_by_text("For SDXL, not SD 1.x").is_visible()
    assert "Made for SDXL, but the loaded model is SD 1.x." in card.get_attribute("aria-label")
    assert card.locator(".lycoris-frame").evaluate("node => getComputedStyle(node).filter") == "grayscale(1)"
    view.press("flat")
    assert view.prompt.input_value() == "<lyco:flat:1>"


def test_phone(hundred, visit):
    view = visit(hundred, width=360, height=740, has_touch=True, is_mobile=True).ready()
    assert view.page.evaluate(WIDE) == 360
    assert view.tab.get_by_role("grid").get_attribute("aria-colcount") == "2"
    view.tab.locator("[data-part=filters]").tap()
    view.tab.locator("[data-part=folders]").tap()
    view.tab.get_by_role("treeitem", name="people").wait_for()
    view.search("name:anna", "1 adapter")
    assert view.page.evaluate(WIDE) == 360
    star = view.card("anna").get_by_role("button", name="Star anna")
    size = star.bounding_box()
    assert min(size["width"], size["height"]) >= 40
    assert star.evaluate("node => getComputedStyle(node).opacity") == "1"
    view.card("anna").locator(".lycoris-name").tap()
    assert view.prompt.input_value() == "<lyco:anna:1>"
    view.card("anna").get_by_role("button", name="Details of anna").tap()
    view.dialog.get_by_role("heading", name="Edit").wait_for()
    body = view.dialog.locator(".lycoris-details-body")
    assert body.evaluate("node => node.scrollWidth") <= 360


def test_dark(hundred, visit):
    colour = "node => getComputedStyle(node).color.match(/[0-9]+/g).map(Number)"
    light = visit(hundred).ready().tab.evaluate(colour)
    dark = visit(hundred, query="?dark=1").ready().tab.evaluate(colour)
    assert max(light[:3]) < 90
    assert min(dark[:3]) > 180


def test_two_tabs_share_their_cards(hundred, visit):
    view = visit(hundred).ready()
    asked: list[str] = []
    view.page.on("request", lambda request: asked.append(request.url) if "since=0" in request.url else None)
    view.page.evaluate("document.querySelector('#one').hidden = true; document.querySelector('#two').hidden = false")
    other = type(view)(view.page, "img2img").ready()
    other.search("name:anna", "1 adapter")
    other.press("anna")
    assert (view.prompt.input_value(), other.prompt.input_value()) == ("", "<lyco:anna:1>")
    assert asked == []


def test_a_tab_that_the_host_draws_anew_is_filled_again(hundred, visit):
    view = visit(hundred).ready()
    view.page.evaluate("""() => { const old = document.querySelector('.lycoris-tab');
        const fresh = old.cloneNode(false);
        fresh.removeAttribute('data-ready');
        old.replaceWith(fresh); }""")
    view.ready()
    view.search("name:anna", "1 adapter")
    view.press("anna")
    assert view.prompt.input_value() == "<lyco:anna:1>"


def test_what_is_set_survives_a_reload(hundred, visit):
    view = visit(hundred).ready()
    view.tab.get_by_role("treeitem", name="plain").click()
    view.tab.locator("[data-part=filters]").click()
    view.tab.get_by_label("Sort by").select_option("name")
    view.tab.get_by_role("button", name="Ascending").click()
    view.tab.get_by_label("Card size").fill("240")
    view.search('"number 8"', "9 adapters")
    view.page.reload()
    view.ready()
    assert view.query.input_value() == '"number 8"'
    assert view.total.text_content() == "9 adapters"
    assert view.names()[0] == "number 87"
    assert view.tab.get_by_label("Card size").input_value() == "240"
    assert view.tab.locator("[data-chip=LoRA]").is_visible()


def test_words_put_in_before_a_reload_are_taken_out_after_it(hundred, visit):
    view = visit(hundred).ready()
    view.search("name:ink", "1 adapter")
    view.press("ink")
    written = view.prompt.input_value()
    view.page.reload()
    view.ready().write(f"a cat, {written}, a dog")
    view.press("ink")
    assert view.prompt.input_value() == "a cat, a dog"


def test_what_leads_one_text_encoder_leads_the_same_in_a_larger_model(own, visit):
    def fill(folder):
        browser_library.adapter(folder / "small.safetensors")
        torch.save(torch.ones(768), folder / "mood.pt")

    site = own(fill)
    site.family = ("sdxl", "SDXL")
    view = visit(site).ready()
    assert "lycoris-misfit" in view.card("small").get_attribute("class")
    assert "lycoris-misfit" not in view.card("mood").get_attribute("class")


def test_an_empty_folder_says_where_files_go(own, visit):
    site = own(lambda folder: None)
    view = visit(site)
    view.tab.get_by_text("No adapters yet").wait_for()
    assert view.tab.get_by_text(str(site.folder), exact=True).last.is_visible()
    browser_library.adapter(site.folder / "new.safetensors")
    view.tab.get_by_role("button", name="Look again").click()
    view.ready()
    assert view.names() == ["new"]


def test_refresh_brings_new_files_and_takes_lost_ones(own, visit):
    site = own(lambda folder: [browser_library.adapter(folder / f"{name}.safetensors") for name in "abc"])
    view = visit(site).ready()
    (site.folder / "b.safetensors").unlink()
    browser_library.adapter(site.folder / "d.safetensors")
    view.tab.locator("[data-part=refresh]").click()
    view.page.wait_for_function("document.querySelector('.lycoris-grid').textContent.includes('d')")
    assert view.names() == ["a", "c", "d"]


def test_progress_is_shown_and_can_be_cancelled(own, visit, monkeypatch):
    """The index is held in the middle of its work for as long as the test looks."""
    from lib_adapters.library import AdapterLibrary
    from lib_adapters.library.records import Progress

    site = own(lambda folder: browser_library.adapter(folder / "a.safetensors"))
    cancelled = threading.Event()
    monkeypatch.setattr(AdapterLibrary, "cancel", lambda catalogue: cancelled.set())
    monkeypatch.setattr(AdapterLibrary, "progress", Progress(running=True, done=7, total=1200, message="style"))
    view = visit(site).ready()
    view.tab.get_by_text("7 of 1,200").wait_for()
    monkeypatch.setattr(AdapterLibrary, "progress", Progress(running=True, done=600, total=1200, message="style"))
    view.tab.get_by_text("600 of 1,200").wait_for()
    view.press("a")
    assert view.prompt.input_value() == "<lyco:a:1>"
    view.tab.get_by_role("button", name="Cancel").click()
    assert cancelled.wait(5)
    monkeypatch.setattr(AdapterLibrary, "progress", Progress(done=600, total=1200, cancelled=True))
    view.tab.get_by_text("Cancelled after 600 of 1,200 files.").wait_for()


def test_a_server_that_went_away_is_told(own, visit):
    site = own(lambda folder: browser_library.adapter(folder / "a.safetensors"))
    view = visit(site).ready()
    view.page.route("**/lycoris/api/**", lambda route: route.abort())
    view.tab.locator("[data-part=refresh]").click()
    view.tab.get_by_text("The server does not answer").wait_for()
    view.page.unroute("**/lycoris/api/**")
    view.tab.get_by_role("button", name="Try again").click()
    view.tab.get_by_role("alert").wait_for(state="hidden")
    assert view.names() == ["a"]


def test_a_video_runs_only_while_it_is_looked_at(own, visit, chrome):
    """The video is recorded by the browser itself: a file of two kilobytes that it can play."""
    blank = chrome.new_page()
    data = blank.evaluate("""async () => { const canvas = document.createElement('canvas');
        const draw = setInterval(() => canvas.getContext('2d').fillRect(0, 0, Math.random() * 99, 99), 30);
        const parts = [], recorder = new MediaRecorder(canvas.captureStream(), {mimeType: 'video/webm'});
        recorder.ondataavailable = event => parts.push(event.data);
        const done = new Promise(ended => { recorder.onstop = ended; });
        recorder.start(); setTimeout(() => recorder.stop(), 400); await done; clearInterval(draw);
        return [...new Uint8Array(await new Blob(parts).arrayBuffer())]; }""")
    blank.close()

    def fill(folder):
        browser_library.adapter(folder / "moving.safetensors")
        (folder / "moving.webm").write_bytes(bytes(data))

    view = visit(own(fill)).ready()
    paused = "wanted => document.querySelector('.lycoris-grid video').paused === wanted"
    view.page.wait_for_function("document.querySelector('.lycoris-grid video').readyState >= 2")
    view.page.wait_for_function(paused, arg=True)
    view.card("moving").hover()
    view.page.wait_for_function(paused, arg=False)
    view.query.hover()
    view.page.wait_for_function(paused, arg=True)
    view.query.press("ArrowDown")
    view.page.wait_for_function(paused, arg=False)


def test_a_preview_that_cannot_be_shown_gives_way(own, visit):
    def fill(folder):
        browser_library.adapter(folder / "ink.safetensors", algorithm="LoHa")
        (folder / "ink.png").write_bytes(b"no picture")

    view = visit(own(fill)).ready()
    view.card("ink").locator(".lycoris-blank").get_by_text("LoHa").wait_for()
