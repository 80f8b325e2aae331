"""Whatever a file is called or says, nothing of it runs in the page."""

from __future__ import annotations

import json

import pytest

from lib_adapters.library.file_names import escape_name
from lib_adapters.prompt.tags import quote_name
from tests.support import browser_library

RUNS = "window.hurt = 1"
TEXTS = [
    f"<img src=x onerror='{RUNS}'>",
    f'"><script>{RUNS}</script>',
    f"';{RUNS};//",
    f"<svg/onload={RUNS}>",
    f"javascript:{RUNS}",
    "${" + RUNS + "}{{constructor.constructor('" + RUNS + "')()}}",
]


def hostile(text):
    name = text.replace("/", "∕")

    def fill(folder):
        fields = ("description", "activation text", "negative text", "notes", "sd version")
        counts = {text: {text: 3}}
        metadata = {"ss_tag_frequency": json.dumps(counts), "modelspec.title": text, text: text}
        path = browser_library.adapter(
            folder / name / f"{name}.safetensors", metadata=metadata, sidecar=dict.fromkeys(fields, text)
        )
        path.with_suffix(".civitai.info").write_text(json.dumps({"trainedWords": [text, text * 2]}), "utf-8")
        (path.parent / f"broken {name}.safetensors").write_bytes(text.encode())

    return name, fill


@pytest.mark.parametrize("text", TEXTS)
def test_nothing_runs(own, visit, text):
    name, fill = hostile(text)
    view = visit(own(fill)).ready()
    view.search(name, "2 adapters")
    view.search("constructor:x __proto__:y is:constructor", "0 adapters")
    view.search("", "2 adapters")
    view.tab.locator("[data-part=filters]").click()
    view.tab.get_by_role("treeitem").last.click()
    view.press(name)
    assert f"<lyco:{quote_name(escape_name(name))}:1>" in view.prompt.input_value()
    dialog = view.details(name)
    assert dialog.get_by_role("heading", level=2).text_content() == name
    dialog.get_by_role("button", name="Measure the blocks").click()
    dialog.locator(".lycoris-block").first.wait_for()
    assert dialog.get_by_label("Description").input_value() == text
    view.page.keyboard.press("Escape")
    view.press(name)
    assert view.prompt.input_value() == ""
    assert view.page.evaluate("window.hurt") is None
    assert view.page.locator("img[src=x], svg[onload], .lycoris-ui script").count() == 0


def test_an_error_from_the_server_is_text(hundred, visit):
    view = visit(hundred).ready()
    view.page.route("**/cards/*/star", lambda route: route.fulfill(status=409, json={"error": TEXTS[0]}))
    view.search("anna", "1 adapter")
    view.card("anna").hover()
    view.card("anna").get_by_role("button", name="Star anna").click()
    view.page.wait_for_timeout(300)
    assert view.page.evaluate("window.hurt") is None
    assert view.card("anna").get_by_role("button", name="Star anna").is_visible()


def test_a_page_without_the_key_sees_nothing(hundred, visit):
    view = visit(hundred).ready()
    answer = view.page.evaluate("fetch('lycoris/api/cards', {credentials: 'omit'}).then(answer => answer.status)")
    assert answer == 401
