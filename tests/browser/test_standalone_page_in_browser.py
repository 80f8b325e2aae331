"""The stand-alone page in a browser: a card is clicked, a picture appears, and what was applied stands below it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest
from PIL import Image


@pytest.fixture
def address(chrome, tmp_path):
    """The page as the command serves it, on a port of its own, behind a proxy that does not work."""
    pytest.importorskip("gradio", reason="browser: gradio is not installed")
    command = [sys.executable, "-m", "lib_adapters", "page", "--no-browser", "--port", "0", "--out", str(tmp_path)]
    nowhere = {"HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "", "no_proxy": ""}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | nowhere) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield re.findall(r"http://[0-9.:]+/", line)[0]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


@pytest.fixture
def page(chrome, address):
    errors: list[str] = []
    context = chrome.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(60_000)
    opened = context.new_page()
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(address, wait_until="commit")  # what gradio wants from elsewhere may never come
    yield opened
    context.close()
    assert errors == []


def slide(page, name, value):
    page.locator(f"#page_{name} input[type=number]").fill(str(value))
    page.locator(f"#page_{name} input[type=number]").blur()


@pytest.mark.slow
def test_from_a_card_to_pictures_without_and_with_it(page, tmp_path):
    page.locator(".lycoris-tab").get_by_role("searchbox").fill("gold")
    page.locator(".lycoris-cell").filter(has_text="gold_lora").locator(".lycoris-thumb").click()
    prompt = page.locator("#page_prompt textarea")
    assert prompt.input_value() == "a red circle on a white background <lyco:gold_lora:1>"
    slide(page, "steps", 2)
    slide(page, "width", 64)
    slide(page, "height", 64)
    page.locator("#page_compare input").check()
    page.get_by_role("button", name="Generate").click()
    page.locator("#page_report").get_by_text("gold_lora: 148 of 148 layers").wait_for()
    pictures = page.locator("#page_gallery .thumbnail-lg img")
    assert pictures.count() == 2
    for number in range(2):
        size = pictures.nth(number).evaluate("one => one.decode().then(() => [one.naturalWidth, one.naturalHeight])")
        assert size == [64, 64]
    assert page.locator("#page_gallery .caption-label").all_text_contents() == ["without", "with"]
    assert len(list(tmp_path.glob("seed-1*.png"))) == 2
    panel = page.locator(".lycoris-prompted")
    panel.get_by_text("Last image: 148 of 148 layers").wait_for()
    panel.locator(".lycoris-schedule").click()
    panel.get_by_text("step 2", exact=True).wait_for()
    panel.get_by_role("button", name="Make a curve").click()
    assert prompt.input_value().endswith("<lyco:gold_lora:1:1@0%,1@100%>")
    page.screenshot(path=str(tmp_path / "page.png"), full_page=True)


@pytest.mark.slow
def test_stop_and_a_second_click(page):
    page.locator(".lycoris-cell").filter(has_text="fog_norm").locator(".lycoris-thumb").click()
    slide(page, "steps", 100)
    page.get_by_role("button", name="Generate").click()
    page.locator("#page_gallery .progress-bar").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.locator("#page_report").get_by_text("Stopped.").wait_for()
    page.locator(".lycoris-cell").filter(has_text="fog_norm").locator(".lycoris-thumb").click()
    assert page.locator("#page_prompt textarea").input_value() == "a red circle on a white background"


@pytest.mark.slow
def test_a_tag_in_the_negative_prompt_acts_when_its_box_is_checked(page, tmp_path):
    page.locator("#page_neg_prompt textarea").fill("a blue square <lyco:gold_lora:1>")
    slide(page, "steps", 1)
    slide(page, "width", 64)
    slide(page, "height", 64)
    page.get_by_role("button", name="Generate").click()
    page.locator("#page_report").get_by_text("plain words").wait_for()
    page.get_by_label("Tags in the negative prompt act on its side").check()
    page.get_by_role("button", name="Generate").click()
    page.locator("#page_report").get_by_text("gold_lora: 148 of 148 layers").wait_for()
    words, acting = (Image.open(tmp_path / f"seed-1{end}.png") for end in ("", "-2"))
    assert words.tobytes() != acting.tobytes()
    assert "Negative tags" not in words.info["parameters"]
    assert acting.info["parameters"].endswith("Negative tags: True")
