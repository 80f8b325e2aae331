"""The tab without a mouse: one stop for Tab, arrows between cards, buttons after the card, focus that comes back."""

from __future__ import annotations


def focused(view) -> str:
    """After the frame in which the page draws what a key has changed."""
    view.page.evaluate("() => new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    return view.page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.tagName")


def press(view, *keys: str) -> str:
    for key in keys:
        view.page.keyboard.press(key)
    return focused(view)


def test_arrows_reach_every_card(hundred, visit):
    view = visit(hundred).ready()
    view.search("name:number", "88 adapters")
    columns = int(view.tab.get_by_role("grid").get_attribute("aria-colcount"))
    assert press(view, "ArrowDown").startswith("number 0,")
    assert press(view, "ArrowRight").startswith("number 1,")
    assert press(view, "ArrowDown").startswith(f"number {1 + columns},")
    assert press(view, "ArrowUp", "ArrowLeft").startswith("number 0,")
    assert press(view, "ArrowLeft").startswith("number 0,")
    assert press(view, "End").startswith("number 87,")
    assert press(view, "Home").startswith("number 0,")
    first = press(view, "PageDown")
    assert not first.startswith("number 0,")
    assert press(view, "PageUp").startswith("number 0,")


def test_enter_and_space_put_in_and_take_out(hundred, visit):
    view = visit(hundred).ready()
    view.search("anna", "1 adapter")
    assert press(view, "ArrowDown").startswith("anna,")
    assert "in the prompt" in press(view, "Enter")
    assert view.prompt.input_value() == "<lyco:anna:1>"
    assert "in the prompt" not in press(view, " ")
    assert view.prompt.input_value() == ""


def test_a_card_is_one_stop_and_its_buttons_follow(hundred, visit):
    view = visit(hundred).ready()
    press(view, "End")
    view.search("name:number", "88 adapters")
    press(view, "ArrowDown")
    assert press(view, "Tab") == "Star number 0"
    assert press(view, "Tab") == "Details of number 0"
    press(view, "Tab")
    assert not view.page.evaluate("document.activeElement.closest('.lycoris-grid')")


def test_details_give_the_focus_back(hundred, visit):
    view = visit(hundred).ready()
    view.search("name:number", "88 adapters")
    press(view, "ArrowDown", "ArrowRight", "Tab", "Tab", "Enter")
    view.dialog.get_by_role("heading", name="Edit").wait_for()
    press(view, "Escape")
    assert not view.dialog.count()
    assert focused(view) == "Details of number 1"


def test_the_focus_stays_with_its_card_when_it_is_scrolled_away(hundred, visit):
    view = visit(hundred).ready()
    view.search("name:number", "88 adapters")
    press(view, "ArrowDown", "ArrowRight")
    view.tab.get_by_role("grid").evaluate("grid => { grid.scrollTop = grid.scrollHeight; }")
    view.page.get_by_text("number 87", exact=True).wait_for()
    assert focused(view).startswith("number 1,")
    assert press(view, "ArrowRight").startswith("number 2,")
    assert view.card("number 2").is_visible()


def test_folders_by_keyboard(hundred, visit):
    view = visit(hundred).ready()
    view.tab.get_by_role("treeitem", name="All folders").focus()
    press(view, "ArrowDown", "ArrowDown", "Enter")
    assert view.names() == ["anna", "people/same"]
    press(view, "End", "ArrowRight", "ArrowDown", " ")
    assert view.names() == ["oil"]


def test_escape_empties_the_search(hundred, visit):
    view = visit(hundred).ready()
    view.search("anna", "1 adapter")
    view.query.press("Escape")
    view.total.get_by_text("97 adapters").wait_for()
