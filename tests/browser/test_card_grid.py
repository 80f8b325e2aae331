"""What is drawn, and that little is: rows in sight, recycled; search, filters, order and folders over all cards."""

from __future__ import annotations

from pathlib import Path

import pytest

from lib_adapters.hosts.tab import routes
from tests.support import browser_library

MANY = 10_000


def test_first_paint(hundred, visit):
    view = visit(hundred).ready()
    assert view.total.text_content() == "97 adapters"
    assert view.tab.get_attribute("data-ready") == "1"
    assert not view.page.locator(".lycoris-waiting").count()
    assert view.names()[:2] == ["anna", "broken"]


def test_a_picture_is_shown_where_there_is_one_and_the_algorithm_where_not(hundred, visit):
    view = visit(hundred).ready()
    view.search("ink", "1 adapter")
    view.page.wait_for_function("document.querySelector('.lycoris-image').naturalWidth > 0")
    view.search("flat", "1 adapter")
    assert view.card("flat").locator(".lycoris-blank").text_content() == "LoHa"


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("ink", ["ink"]),
        ("rough INK", ["ink"]),
        ("style -deep -same -flat", ["ink"]),
        ('"brush strokes"', ["oil"]),
        ("algo:loha", ["flat"]),
        ("family:sdxl", ["flat"]),
        ("tag:canvas", ["oil"]),
        ("folder:people", ["anna", "people/same"]),
        ("名前", ["Ünïcode 名前 (v1.0) [+*]"]),
        ("is:broken", ["broken"]),
        ("oil painting", ["oil"]),
        ("[+*]", ["Ünïcode 名前 (v1.0) [+*]"]),
    ],
)
def test_search(hundred, visit, query, shown):
    view = visit(hundred).ready()
    view.search(query, f"{len(shown)} adapter{'s' if len(shown) > 1 else ''}")
    assert view.names() == shown


SIGNED = ['quote"s', "name:colon", "colon：full", '"quoted"', "brush strokes", "strokes brush", "-minus", '5"x3"']


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ('quote"s', {'quote"s'}),
        ('5"x3"', {'5"x3"'}),
        ("name:colon", {"name:colon", "colon：full"}),
        ("colon:full", {"colon：full"}),
        ("name:name:colon", {"name:colon"}),
        ('"name:colon"', {"name:colon"}),
        ('"quoted"', {'"quoted"'}),
        ('"brush strokes"', {"brush strokes"}),
        ('"brush str', {"brush strokes"}),
        ('name:"brush strokes"', {"brush strokes"}),
        ('"-minus"', {"-minus"}),
        ('-quote"s -brush -name:colon -"5"x3""', {'"quoted"', "-minus", '5"x3"'}),
    ],
)
def test_signs_in_names_are_searched_for_as_they_are_written(searched, query, shown):
    assert set(searched(query)) == shown


@pytest.fixture(scope="module")
def searched(chrome):
    """The page's own search over cards of such names."""
    page = chrome.new_page()
    scripts = Path(__file__).resolve().parents[2] / "javascript"
    page.evaluate("window.lycoris = { family: (name) => name || '' }")
    page.add_script_tag(path=scripts / "lycoris_search.js")
    yield lambda query: page.evaluate(
        """([query, names]) => {
            const cards = names.map((name) => ({ name, file: `${name}.safetensors`, dir: "" }));
            return cards.filter(lycoris.matcher(query)).map((card) => card.name);
        }""",
        [query, SIGNED],
    )
    page.close()


def test_names_sort_by_their_numbers(hundred, visit):
    view = visit(hundred).ready()
    view.search("name:number", "88 adapters")
    assert view.names()[:3] == ["number 0", "number 1", "number 2"]
    view.tab.get_by_role("button", name="Ascending").click()
    assert view.names()[:3] == ["number 87", "number 86", "number 85"]


def test_size_sorts_largest_first(hundred, visit):
    view = visit(hundred).ready()
    view.tab.get_by_label("Sort by").select_option("size")
    assert view.names()[0] == "oil"
    view.tab.get_by_role("button", name="Descending").click()
    assert view.names()[0] == "broken"


def test_filters_count_what_they_would_show(hundred, visit):
    view = visit(hundred).ready()
    view.tab.locator("[data-part=filters]").click()
    chip = lambda name: view.tab.locator(f"[data-chip='{name}']")  # noqa: E731
    assert chip("LoHa").locator(".lycoris-count").text_content() == "1"
    assert chip("Broken").locator(".lycoris-count").text_content() == "1"
    chip("LoHa").click()
    assert view.names() == ["flat"]
    assert chip("SDXL").locator(".lycoris-count").text_content() == "1"
    assert chip("LoKr").locator(".lycoris-count").text_content() == "1"
    chip("LoKr").click()
    assert view.names() == ["flat", "oil"]
    chip("Fits the model").click()
    assert view.names() == ["oil"]


def test_what_is_hidden_is_said_and_shown_again(hundred, visit):
    view = visit(hundred).ready()
    view.search("no file is called like this", "0 adapters")
    assert view.tab.locator(".lycoris-empty").get_by_text("Nothing matches").is_visible()
    view.tab.get_by_role("button", name="97 hidden by filters: clear").click()
    view.total.get_by_text("97 adapters").wait_for()
    assert view.query.input_value() == ""


def test_folders(hundred, visit):
    view = visit(hundred).ready()
    item = lambda name: view.tab.get_by_role("treeitem", name=name)  # noqa: E731
    item("style").click()
    assert view.names() == ["flat", "ink", "oil", "style/same"]
    view.tab.get_by_label("Include subfolders").uncheck()
    assert view.names() == ["flat", "ink", "style/same"]
    item("style").locator(".lycoris-turn").click()
    item("deep").click()
    assert view.names() == ["oil"]
    view.tab.locator(".lycoris-crumb", has_text="All folders").click()
    view.total.get_by_text("97 adapters").wait_for()


def test_a_name_that_two_files_have_says_so(hundred, visit):
    view = visit(hundred).ready()
    view.search("same", "2 adapters")
    assert view.names() == ["people/same", "style/same"]
    assert view.tab.get_by_text("same name").count() == 2
    view.press("style/same")
    assert view.prompt.input_value() == "<lyco:style/same:1>"


def test_card_size(hundred, visit):
    view = visit(hundred).ready()
    before = view.tab.locator(".lycoris-grid").get_attribute("aria-colcount")
    view.tab.get_by_label("Card size").fill("320")
    view.page.wait_for_function(
        "before => document.querySelector('.lycoris-grid').getAttribute('aria-colcount') < before", arg=before
    )


@pytest.mark.slow
def test_ten_thousand_cards(own, visit):
    """Nodes are bounded however far one scrolls. The longest tasks are printed: a shared machine proves no time."""
    many = own(
        lambda folder: [browser_library.adapter(folder / f"{at % 9}/card {at}.safetensors") for at in range(MANY)]
    )
    view = visit(many)
    view.page.evaluate("""() => { window.long = [];
        new PerformanceObserver(list => list.getEntries().forEach(one => long.push(Math.round(one.duration))))
            .observe({type: 'longtask', buffered: true}); }""")
    view.ready()
    view.total.get_by_text("10,000 adapters", exact=True).wait_for()
    print("loading, longest tasks in ms:", view.page.evaluate("() => long.splice(0)"))
    nodes = view.page.evaluate("""async () => {
        const grid = document.querySelector('.lycoris-grid');
        let most = 0;
        for (let at = 0; at <= 100; at += 1) {
            grid.scrollTop = grid.scrollHeight * at / 100;
            await new Promise(requestAnimationFrame);
            most = Math.max(most, document.querySelectorAll('*').length);
        }
        return most; }""")
    long = view.page.evaluate("() => long")
    print("scrolling, longest tasks in ms:", long, "nodes:", nodes)
    assert nodes < 2500
    view.page.get_by_text("card 9999", exact=True).wait_for()


WATCH = """window.drawn = []; window.searched = [];
    document.addEventListener('DOMContentLoaded', () => {
        const { select, searchable } = lycoris;
        lycoris.select = (cards, ...rest) => { drawn.push(cards.size); return select(cards, ...rest); };
        lycoris.searchable = (card) => { searched.push(card.id); return searchable(card); };
    });"""


def test_cards_come_in_windows_and_are_drawn_when_they_have_doubled(own, visit, monkeypatch):
    monkeypatch.setattr(routes, "WINDOW_CHARACTERS", 10_000)  # about forty cards
    some = own(lambda folder: [browser_library.adapter(folder / f"card {at}.safetensors") for at in range(1000)])
    sizes: list[int] = []
    view = visit(some, script=WATCH, before=lambda route: sizes.append(_pass_on(route)))
    view.total.get_by_text("1,000 adapters", exact=True).wait_for()
    assert len(sizes) > 20
    assert max(sizes) < 15_000
    drawn = view.page.evaluate("drawn")
    assert sorted(drawn) == drawn
    assert len(set(drawn)) <= 8  # none, then at most once for each doubling, then all
    assert view.page.evaluate("new Set(searched).size") == view.page.evaluate("searched.length") == 1000
    view.search("999", "1 adapter")
    assert view.names() == ["card 999"]


def _pass_on(route) -> int:
    """Return the size in bytes."""
    answer = route.fetch()
    route.fulfill(response=answer)
    return len(answer.body()) if "/cards?" in route.request.url else 0
