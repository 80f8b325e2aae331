"""The panel of active adapters: a row for each tag, every control an edit of the tag's text, and the focus stays."""

from __future__ import annotations

import pytest

from tests.support import browser_library

HOSTILE = '"><img src=x onerror="window.hurt = 1">'


@pytest.fixture
def view(hundred, visit):
    hundred.report = {}
    return visit(hundred).ready()


FRAMES = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


def entry(view, name):
    drawn(view)
    return view.tab.locator(f".lycoris-entry[data-name='{name}']")


def text(view):
    """And what it changes in the panel, which is drawn a frame later."""
    drawn(view)
    return view.prompt.input_value()


def commit(field, value):
    field.fill(value)
    field.press("Enter")
    field.evaluate(FRAMES)


def drawn(view):
    view.page.evaluate(FRAMES)


def test_one_number_moves_both_and_two_move_alone(view):
    view.write("a <lora:ink: 1 :foo=x>, <lyco:gone:1:0.5>")
    ink, gone = (
        view.tab.get_by_label(f"{part} of {name}", exact=True)
        for part, name in (("U-Net", "ink"), ("Text encoder", "gone"))
    )
    commit(ink, "0.65")
    assert text(view) == "a <lora:ink: 0.65 :foo=x>, <lyco:gone:1:0.5>"
    drawn(view)
    assert view.tab.get_by_label("Text encoder of ink", exact=True).input_value() == "0.65"
    commit(gone, "-0.25")
    assert text(view) == "a <lora:ink: 0.65 :foo=x>, <lyco:gone:-0.25:0.5>"
    view.tab.get_by_label("U-Net of gone, slider").press("ArrowRight")
    assert text(view).endswith("<lyco:gone:-0.25:0.55>")
    view.tab.get_by_role("button", name="Take gone out of the prompt").click()
    assert text(view) == "a <lora:ink: 0.65 :foo=x>"


def test_the_chain_parts_and_joins(view):
    view.write("<lyco:ink:0.8>")
    chain = entry(view, "ink").locator(".lycoris-strengths button")
    assert chain.get_attribute("aria-pressed") == "true"
    chain.click()
    assert text(view) == "<lyco:ink:0.8:0.8>"
    commit(view.tab.get_by_label("U-Net of ink", exact=True), "0.3")
    assert text(view) == "<lyco:ink:0.8:0.3>"
    chain.click()
    assert text(view) == "<lyco:ink:0.3>"


def test_off_is_a_word_in_the_tag(view):
    view.write("a cat, <lyco:ink:0.65:1> inkstyle, at night")
    use = view.tab.get_by_label("Use ink")
    use.uncheck()
    assert text(view) == "a cat, <lyco:ink:0.65:1:off> inkstyle, at night"
    entry(view, "ink").get_by_text("Off: it stays").wait_for()
    view.card("ink").get_by_text("in prompt · off").wait_for()
    use.check()
    assert text(view) == "a cat, <lyco:ink:0.65:1> inkstyle, at night"
    assert view.page.evaluate("document.activeElement.getAttribute('aria-label')") == "Use ink"


def test_presets_and_modes(view):
    view.write("<lyco:ink:0.8:outs:0.3>, <lyco:anna:1:lbw=IN05-OUT03:0.5>")
    preset, mode = view.tab.get_by_label("Block preset of ink"), view.tab.get_by_label("Mode of ink")
    preset.locator("option", has_text="OUTALL").wait_for(state="attached")
    assert preset.input_value() == "=OUTS"
    preset.select_option("MIDD")
    assert text(view).startswith("<lyco:ink:0.8:MIDD:0.3>,")
    preset.select_option("None")
    assert text(view).startswith("<lyco:ink:0.8:x=0.3>,")
    mode.select_option("live")
    assert text(view).startswith("<lyco:ink:0.8:x=0.3:mode=live>,")
    mode.select_option("auto")
    assert text(view).startswith("<lyco:ink:0.8:x=0.3>,")
    rules = view.tab.get_by_label("Block preset of anna")
    assert rules.locator("option:checked").text_content() == "IN05-OUT03:0.5"
    rules.select_option("ALL")
    assert text(view) == "<lyco:ink:0.8:x=0.3>, <lyco:anna:1:lbw=ALL>"


def test_start_stop_and_the_second_pass(view):
    view.write("<lyco:ink:0.8>")
    entry(view, "ink").locator(".lycoris-schedule").click()
    start, stop = view.tab.get_by_label("Start", exact=True), view.tab.get_by_label("Stop", exact=True)
    commit(start, "5")
    commit(stop, "80%")
    assert text(view) == "<lyco:ink:0.8:start=5:stop=80%>"
    commit(start, "soon")
    assert start.get_attribute("aria-invalid") == "true"
    assert text(view) == "<lyco:ink:0.8:start=5:stop=80%>"
    commit(start, "")
    commit(view.tab.get_by_label("Hires strength"), "0.4")
    assert text(view) == "<lyco:ink:0.8:stop=80%:hr=0.4>"
    view.write("<lyco:ink:0.8:hrunet=0.2:hrlbw=OUTS:step=5-10>")
    drawn(view)
    assert (start.input_value(), stop.input_value()) == ("5", "10")
    commit(stop, "")
    commit(view.tab.get_by_label("Hires U-Net"), "0.3")
    assert view.tab.get_by_text("Hires: hrlbw=OUTS").is_visible()
    view.write(text(view).replace(":hrunet=0.3:hrlbw=OUTS", ""))
    assert text(view) == "<lyco:ink:0.8:step=5->"
    view.tab.get_by_label("Hires U-Net").wait_for(state="hidden")
    view.tab.get_by_label("Layers (lbwe)").select_option("ATTNDEEPON")
    assert text(view) == "<lyco:ink:0.8:step=5-:lbwe=ATTNDEEPON>"


def test_a_curve_is_made_bent_and_taken_back_by_numbers(view):
    view.write("<lyco:ink:0.8>")
    more = entry(view, "ink")
    more.locator(".lycoris-schedule").click()
    more.get_by_role("button", name="Make a curve").click()
    assert text(view) == "<lyco:ink:0.8:0.8@0%,0.8@100%>"
    assert view.tab.get_by_label("U-Net of ink", exact=True).is_disabled()
    commit(more.get_by_label("Point 1: strength"), "0")
    more.get_by_role("button", name="Add a point").click()
    assert text(view) == "<lyco:ink:0.8:0@0%,0.4@50%,0.8@100%>"
    commit(more.get_by_label("Point 2: % of all steps"), "25")
    more.get_by_role("button", name="Remove point 3").click()
    assert text(view) == "<lyco:ink:0.8:0@0%,0.4@25%>"
    more.get_by_role("img", name="0 to 0.4 of all steps").wait_for()  # it is drawn a frame later
    more.get_by_role("button", name="Back to one number").click()
    assert text(view) == "<lyco:ink:0.8:0>"


def test_a_point_is_dragged(view):
    view.write("<lyco:ink:0@0, 1@1>")
    more = entry(view, "ink")
    more.locator(".lycoris-schedule").click()
    graph, handle = more.get_by_role("img").bounding_box(), more.locator(".lycoris-handle").first.bounding_box()
    view.page.mouse.move(handle["x"] + 4, handle["y"] + 4)
    view.page.mouse.down()
    view.page.mouse.move(graph["x"] + graph["width"] / 2, graph["y"] + graph["height"] / 2, steps=5)
    assert text(view) == "<lyco:ink:0@0, 1@1>"
    view.page.mouse.up()
    assert text(view) == "<lyco:ink:0.5@0.5, 1@1>"
    view.prompt.focus()
    view.page.keyboard.press("Control+z")
    assert text(view) == "<lyco:ink:0@0, 1@1>"


def test_the_curve_is_drawn_over_the_steps_of_the_page(view):
    view.page.evaluate("""() => { const steps = document.createElement('div'); steps.id = 'txt2img_steps';
        steps.innerHTML = '<input type="number" value="8">'; document.body.append(steps); }""")
    view.write("<lyco:ink:0@0,1@4>")
    entry(view, "ink").locator(".lycoris-schedule").click()
    axis = entry(view, "ink").locator(".lycoris-axis")
    axis.get_by_text("step 8").wait_for()
    line = entry(view, "ink").locator(".lycoris-big-graph .lycoris-graph-line")
    before = line.get_attribute("d")
    view.page.locator("#txt2img_steps input").fill("30")
    axis.get_by_text("step 30").wait_for()
    assert line.get_attribute("d") != before


def test_the_last_report_stands_at_its_row(hundred, view):
    view.write("<lyco:ink:1>, <lyco:style/flat:1>, <lyco:gone:1>")
    ink = {"name": "ink", "error": None, "line": "ink: 3 of 3 layers", "mode": "merged", "unmatched": [], "notes": []}
    flat = ink | {"name": "flat", "error": "flat: made for SDXL.", "line": "flat: made for SDXL."}
    problems = ["<lyco:gone:1>: there is no gone.", "flat: made for SDXL.", "something else."]
    hundred.report = {"adapters": [ink, flat], "problems": problems, "lines": []}
    view.page.evaluate("document.querySelector('#txt2img_gallery img').src = ''")
    entry(view, "ink").get_by_text("Last image: 3 of 3 layers, merged").wait_for()
    assert "lycoris-warned" not in entry(view, "ink").locator(".lycoris-said").get_attribute("class")
    for name, said in (("style/flat", "made for SDXL."), ("gone", "there is no gone.")):
        warned = entry(view, name).locator(".lycoris-said.lycoris-warned")
        assert warned.text_content() == f"Last image: {said}"
    assert view.tab.locator(".lycoris-rest li").all_text_contents() == ["something else."]


@pytest.mark.slow
def test_what_is_being_typed_stays_when_a_report_comes(hundred, view):
    view.write("<lyco:ink:0.8>")
    entry(view, "ink").locator(".lycoris-schedule").click()
    for field, typed in (
        (view.tab.get_by_label("U-Net of ink", exact=True), "0.655"),
        (view.tab.get_by_label("Start"), "1"),
    ):
        field.fill(typed)
        hundred.report = {"adapters": [{"name": "ink", "line": f"ink: {typed}"}], "lines": []}
        view.page.evaluate("document.querySelector('#txt2img_gallery img').src = ''")
        entry(view, "ink").get_by_text(f"Last image: {typed}").wait_for()
        assert field.input_value() == typed
        field.press("Enter")
    field.evaluate(FRAMES)
    assert text(view) == "<lyco:ink:0.655:start=1>"
    commit(view.tab.get_by_label("U-Net of ink", exact=True), "")
    drawn(view)
    assert view.tab.get_by_label("U-Net of ink", exact=True).input_value() == "0.655"


def test_typing_keeps_rows_their_height_and_the_focus(view):
    view.write("<lyco:ink:0.8>, <lyco:anna:1>", caret=12)
    rows = view.tab.locator(".lycoris-entry")
    rows.nth(1).wait_for()
    view.page.evaluate("window.rows = [...document.querySelectorAll('.lycoris-entry')]")
    height = view.tab.locator(".lycoris-prompted").bounding_box()["height"]
    for key in ("Backspace", "Delete", "Backspace", "x", ":", "0", ".", "3"):
        view.page.keyboard.press(key)
        drawn(view)
        assert view.tab.locator(".lycoris-prompted").bounding_box()["height"] == height, text(view)
        assert view.page.evaluate("document.activeElement === document.querySelector('#txt2img_prompt textarea')")
    assert view.page.evaluate("rows.every(row => row.isConnected)")
    use = view.tab.get_by_label("Use anna")
    use.focus()
    view.prompt.evaluate("""box => { box.value = '<lora:new:1> ' + box.value;
        box.dispatchEvent(new Event('input', {bubbles: true})); }""")
    rows.nth(2).wait_for()
    assert view.page.evaluate("document.activeElement.getAttribute('aria-label')") == "Use anna"


def test_the_panel_is_drawn_once_in_a_frame(view):
    view.write("<lyco:ink:0.8>")
    count = view.page.evaluate("""async () => { let count = 0; const read = lycoris.tags;
        lycoris.tags = prompt => { count += 1; return read(prompt); };
        const box = document.querySelector('#txt2img_prompt textarea');
        for (let at = 0; at < 50; at += 1) { box.value += 'x'; box.dispatchEvent(new Event('input', {bubbles: true})); }
        await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
        lycoris.tags = read; return count; }""")
    assert count <= 3


def test_what_cannot_be_read_says_why_and_other_kinds_have_their_weight(view):
    view.write("<lyco:ink:abc>, <hypernet:glow:0.5>, <aesthetic:sky:0.9:slerp>")
    assert entry(view, "ink").get_by_text("cannot be read: “abc” is not a finite number.").is_visible()
    assert view.tab.get_by_label("U-Net of ink", exact=True).is_disabled()
    commit(view.tab.get_by_label("Weight of glow"), "0.75")
    assert text(view) == "<lyco:ink:abc>, <hypernet:glow:0.75>, <aesthetic:sky:0.9:slerp>"
    assert entry(view, "sky").get_by_text("0.9:slerp").is_visible()


def test_a_name_is_text_and_so_is_a_report(own, visit):
    site = own(lambda folder: browser_library.adapter(folder / "ink.safetensors"))
    line = {"name": HOSTILE, "line": HOSTILE, "error": None, "mode": HOSTILE, "notes": [HOSTILE], "unmatched": []}
    site.report = {"adapters": [line], "problems": [HOSTILE], "lines": []}
    view = visit(site).ready()
    view.write(f'<lyco:"{HOSTILE.replace(chr(34), chr(34) * 2)}":1:lbw=<img onerror=hurt()>')
    view.tab.locator(".lycoris-warned").first.wait_for()
    assert view.tab.locator(".lycoris-used-name").text_content() == HOSTILE
    view.tab.locator(".lycoris-schedule").click()
    view.tab.get_by_label("Start", exact=True).wait_for()
    assert view.page.evaluate("window.hurt") is None
    assert view.tab.locator(".lycoris-prompted img").count() == 0


@pytest.mark.parametrize("dark", [0, 1])
def test_a_phone_has_room_for_everything(hundred, visit, tmp_path, dark):
    view = visit(hundred, width=360, height=740, has_touch=True, is_mobile=True, query=f"?dark={dark}").ready()
    view.write(
        "<lyco:a name that is far too long for a phone, with more words:0.8:0@0,1@1:start=2:mode=live>, <lyco:ink>"
    )
    view.tab.locator(".lycoris-schedule").first.tap()
    view.tab.get_by_role("button", name="Add a point").wait_for()
    assert view.page.evaluate("document.documentElement.scrollWidth") == 360
    view.tab.locator(".lycoris-prompted").screenshot(path=str(tmp_path / f"panel-{dark}.png"))
