"""Every text that the page shows, from files and from answers, in a real browser: none is ever more than text."""

from __future__ import annotations

import json

import pytest

from tests.support import browser_library
from tests.support.script_injection import WATCH, Poison, evil, evil_name

FIELDS = ("description", "activation text", "negative text", "notes", "sd version")
METADATA = (
    "modelspec.title", "modelspec.description", "modelspec.trigger_phrase", "modelspec.architecture", "ss_output_name",
    "ss_base_model_version", "ss_network_module", "ssmd_keywords", "sshs_model_hash",
)  # fmt: skip


def hostile_file(path):
    """One whose every place for a text has one that wants to run; which place it was, it says."""
    texts = {key: evil(key) for key in METADATA} | {evil("a key"): evil("a value"), "ssmd_cover_images": evil("cover")}
    texts["ss_tag_frequency"] = json.dumps({evil("folder of tags"): {evil("a tag"): 3}})
    browser_library.adapter(path, metadata=texts, sidecar={field: evil(field) for field in FIELDS})
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    end = len(data)
    for name in (f"lora_unet_{evil('a layer')}.lora_up.weight", f"bundle_emb.{evil('an embedding')}.clip_l"):
        header[name] = {"dtype": "F32", "shape": [1, 768], "data_offsets": [end, end + 3072]}
        end += 3072
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data + bytes(6144))
    for suffix in (".civitai.info", ".cm-info.json"):
        beside = path.with_name(path.stem + suffix)
        beside.write_text(json.dumps({"trainedWords": [evil(suffix)], "TrainedWords": [evil(suffix)]}), "utf-8")
    path.with_name(path.stem + ".preview.png").write_bytes(browser_library.picture())


def fill(folder):
    hostile_file(folder / evil_name("folder") / evil_name("deep") / f"{evil_name('name')}.safetensors")
    browser_library.adapter(
        folder / "ink.safetensors", metadata=browser_library.training(), sidecar={"activation text": "one, two"}
    )
    browser_library.adapter(
        folder / "other" / f"{evil_name('name')}.safetensors", algorithm="LoKr"
    )  # a name that is not alone
    for kind in (b"<html>", b"{", evil("content").encode(), b""):
        (folder / f"{evil_name('broken')}{len(kind)}.safetensors").write_bytes(kind)


def report():
    one = {"name": "ink", "line": evil("line"), "error": None, "mode": evil("mode")}
    other = {"name": evil_name("name"), "line": evil("line"), "error": evil("error"), "mode": "merged"}
    rest = {"notes": [evil("note")], "unmatched": [[evil("key"), evil("reason")]]}
    return {
        "adapters": [one | rest, other | rest],
        "problems": [evil("problem")],
        "lines": [evil("line")],
        "mode": "live",
    }


@pytest.fixture
def tour(own, visit, tmp_path):
    """Opens everything that there is to open; tells what was hurt and all that could be read."""

    def go(poison=None):
        (tmp_path / "place").mkdir(exist_ok=True)
        name, text = (evil_name(what).replace(":", "") for what in ("preset", "text"))
        preset = f"{name}:IN05\n{evil_name('no preset')}\n#{evil('comment')}\nx:{text}\n"
        (tmp_path / "place" / "lycoris_presets.txt").write_text(preset, "utf-8")
        site = own(fill)
        site.report, site.family, site.label = report(), ("sd1", evil("model")), evil("label")
        view = visit(site, script=WATCH, before=poison).ready()
        text = [*look_at_the_grid(view), *look_at_details(view), *use(view), *look_at_presets(view)]
        return view.page.evaluate("window.hurts"), "\n".join(text)

    return go


def everything(view):
    """All text and all attributes of what is there now."""
    return view.page.evaluate(
        """() => [...document.querySelectorAll(".lycoris-tab *, .lycoris-ui, .lycoris-ui *")].flatMap((node) =>
            [...node.childNodes].filter((one) => one.nodeType === 3).map((one) => one.data)
                .concat([...node.attributes].map((one) => one.value), String(node.value ?? "")))"""
    )


def look_at_the_grid(view):
    view.tab.locator("[data-part=filters]").click()
    yield from everything(view)
    folders = view.tab.get_by_role("treeitem")
    for number in range(folders.count()):
        folders.nth(number).click()
        yield from everything(view)
    folders.first.click()
    view.search(evil("query"))
    view.tab.get_by_text("No adapter to show").wait_for()
    yield from everything(view)
    view.search("")
    view.cells.first.wait_for()


def look_at_details(view):
    for number in range(view.cells.count()):
        cell = view.cells.nth(number)
        cell.hover()
        cell.locator("[data-act=star]").click()
        cell.locator("[data-act=details]").click()
        view.dialog.locator(".lycoris-failure, .lycoris-form").first.wait_for()
        for name in ("Measure the blocks", "Compute hashes", "Copy as JSON", "Use the last image"):
            for button in view.dialog.get_by_role("button", name=name).all():
                button.click()
        yield from everything(view)
        for field in view.dialog.get_by_label("Notes").all():
            field.fill(evil("notes"))
            view.dialog.get_by_role("button", name="Save").click()
        view.page.wait_for_timeout(100)
        yield from everything(view)
        view.page.keyboard.press("Escape")
        view.dialog.wait_for(state="detached")


def use(view):
    for number in range(view.cells.count()):
        view.cells.nth(number).locator(".lycoris-thumb").click()
    view.page.evaluate("document.querySelector('#txt2img_gallery img').src = ''")
    view.page.wait_for_timeout(900)  # the report is asked for when the gallery is calm
    for button in view.tab.locator(".lycoris-schedule").all():
        button.click()
    yield from everything(view)
    yield view.prompt.input_value()


def look_at_presets(view):
    view.tab.get_by_role("button", name="Edit presets").click()
    items = view.dialog.locator(".lycoris-preset-item")
    view.page.wait_for_timeout(200)
    for number in [*range(min(3, items.count())), *range(max(0, items.count() - 3), items.count())]:
        items.nth(number).click()
        yield from everything(view)
    view.dialog.get_by_role("button", name="Save").click(force=True)
    for place in view.dialog.locator("[data-view]").all():
        place.click()
        yield from everything(view)


SHOWN = [*FIELDS[:4], "modelspec.title", "a key", "a value", "a tag", ".civitai.info", "a layer", "an embedding",
         "name", "folder", "deep", "broken", "label", "model", "line", "note", "error", "problem", "preset", "text",
         "query"]  # fmt: skip


@pytest.mark.slow
def test_every_place_for_a_text_in_files(tour, tried):
    hurts, text = tour()
    tried("security", "places for a hostile text").add(len(SHOWN))
    assert hurts == []
    text = text.replace("\\'", "'")  # as Python quotes it
    assert [field for field in SHOWN if f"{field}\"'><img" not in text] == []


@pytest.mark.slow
@pytest.mark.parametrize("refuse", [False, True], ids=["told", "refused"])
def test_every_text_of_every_answer(tour, tried, refuse):
    """Whatever the server says, and whatever it will say one day."""
    poison = Poison(refuse)
    hurts, text = tour(poison)
    tried("security", "places for a hostile text").add(len(poison.seen))
    assert hurts == []
    assert len(poison.seen) > (12 if refuse else 30)
    assert ("refused\"'><img" in text) == refuse


@pytest.mark.slow
def test_the_watch_sees_what_it_should(hundred, visit):
    """Else all of this would be green for nothing."""
    page = visit(hundred, script=WATCH).ready().page
    ways = [
        "<img src=x onerror=hurt(1)>", "<svg onload=hurt(1)>", "<a href='javascript:hurt(1)'>x</a>",
        "<b style='width:expression(hurt(1))'>x</b>", "<iframe srcdoc='x'></iframe>", "<base href='//evil.example'>",
    ]  # fmt: skip
    for way in ways:
        before = page.evaluate("window.hurts.length")
        page.evaluate("way => { document.querySelector('.lycoris-tab').lastChild.innerHTML = way; }", way)
        page.wait_for_timeout(50)
        assert page.evaluate("window.hurts.length") > before, way
        page.evaluate("document.querySelector('.lycoris-tab').lastChild.replaceChildren()")
