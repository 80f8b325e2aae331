"""Click in, click out: the tag and its words go where they fit, and exactly they are taken away again."""

from __future__ import annotations

import pytest
import torch

from tests.support import browser_library

INK = "<lyco:ink:0.8> inkstyle, rough lines"
ODD = "Ünïcode 名前 (v1.0) [+*]"


@pytest.mark.parametrize(
    ("before", "caret", "after"),
    [
        ("", None, INK),
        ("a cat", None, f"a cat, {INK}"),
        ("a cat ", None, f"a cat, {INK}"),
        ("a cat,", None, f"a cat, {INK}"),
        ("a cat, ", None, f"a cat, {INK}"),
        ("a cat", 3, f"a cat, {INK}"),
        ("a cat, a dog", 6, f"a cat, {INK}, a dog"),
        ("a cat, a dog", 5, f"a cat, {INK}, a dog"),
        ("a cat, a dog", 0, f"{INK}, a cat, a dog"),
        ("a cat\na dog", 5, f"a cat, {INK}\na dog"),
        ("a cat\na dog", 6, f"a cat\n{INK}, a dog"),
        ("<lyco:other:1>", 4, f"<lyco:other:1> {INK}"),
        ("a <lora:other:1>", None, f"a <lora:other:1>, {INK}"),
        ("(a cat:1.2)", 9, f"(a cat:1.2), {INK}"),
        ("(a cat)", 6, f"(a cat, {INK})"),
        ("a cat BREAK ", None, f"a cat BREAK {INK}"),
    ],
)
def test_in_and_out(hundred, visit, before, caret, after):
    view = visit(hundred).ready()
    view.search("ink", "1 adapter")
    view.write(before, caret)
    view.press("ink")
    assert view.prompt.input_value() == after
    assert view.negative.input_value() == "photo"
    view.press("ink")
    assert view.prompt.input_value() == before
    assert view.negative.input_value() == ""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("<lyco:anna:1>", ""),
        ("a cat, <lyco:anna:0.35>, a dog", "a cat, a dog"),
        ("a cat <lyco:anna:-1:0.5>", "a cat"),
        ("a cat, <lora:anna:1>", "a cat"),
        ('<lyco:"anna":te=1:unet=0>, a dog', "a dog"),
        ("a <lyco:anna:1> b", "a b"),
        ("(<lyco:anna:1> a cat:1.2)", "(a cat:1.2)"),
        ("(a cat <lyco:anna:1>:1.2)", "(a cat:1.2)"),
        ("a cat,\n<lyco:anna:1>, a dog", "a cat,\na dog"),
        ("a cat, <lyco:anna:1>\na dog", "a cat,\na dog"),
        ("<lyco:anna:1> a cat <lyco:anna:0.2>", "a cat"),
        ("a <lyco:Anna:1>", "a"),
        ("a <lyco:people/anna:1>", "a"),
        ("<lyco:anna2:1>, <lyco:anna:1>", "<lyco:anna2:1>"),
    ],
)
def test_a_tag_typed_by_hand_is_seen_and_taken_out(hundred, visit, before, after):
    view = visit(hundred).ready()
    view.search("anna", "1 adapter")
    view.write(before)
    view.tab.locator(".lycoris-active").wait_for()
    view.press("anna")
    assert view.prompt.input_value() == after
    view.page.wait_for_function("!document.querySelector('.lycoris-active')")


def test_edits_in_between_are_kept(hundred, visit):
    view = visit(hundred).ready()
    view.search("ink", "1 adapter")
    view.write("a cat")
    view.press("ink")
    view.write(view.prompt.input_value().replace(":0.8>", ":0.35:1>") + ", at night")
    view.press("ink")
    assert view.prompt.input_value() == "a cat, at night"


def test_words_that_were_changed_are_the_users(hundred, visit):
    view = visit(hundred).ready()
    view.search("ink", "1 adapter")
    view.press("ink")
    view.write("<lyco:ink:0.8> inkstyle, smooth lines")
    view.press("ink")
    assert view.prompt.input_value() == "inkstyle, smooth lines"


def test_several_cards_leave_in_any_order(hundred, visit):
    view = visit(hundred).ready()
    view.write("a cat")
    for name in ("anna", "ink", "flat"):
        view.search(f"name:{name}", "1 adapter")
        view.press(name)
    assert view.prompt.input_value() == f"a cat <lyco:anna:1>, {INK} <lyco:flat:1>"
    for name in ("ink", "anna", "flat"):
        view.search(f"name:{name}", "1 adapter")
        view.press(name)
    assert view.prompt.input_value() == "a cat"


def test_names_with_every_kind_of_sign(hundred, visit):
    view = visit(hundred).ready()
    view.search("名前", "1 adapter")
    view.press(ODD)
    assert view.prompt.input_value() == f"<lyco:{ODD}:1> 名前, (smile:1.2)"
    view.press(ODD)
    assert view.prompt.input_value() == ""


@pytest.mark.parametrize("name", ["a:b", 'say "hi"', '"quoted"', "it's a, b", "50% = half"])
def test_names_that_need_quotes(own, visit, name):
    from lib_adapters.prompt.tags import parse, quote_name

    view = visit(own(lambda folder: browser_library.adapter(folder / f"{name}.safetensors"))).ready()
    view.press(name)
    assert view.prompt.input_value() == f"<lyco:{quote_name(name)}:1>"
    assert parse(view.prompt.input_value()).tags[0].name == name
    view.press(name)
    assert view.prompt.input_value() == ""


def test_names_that_a_prompt_cannot_carry(own, visit):
    """The tag says %3E for >, the card still shows the name; a second click takes the tag out again."""
    names = ["a>b", "style #2", "<i>x", "100%3E"]
    view = visit(
        own(lambda folder: [browser_library.adapter(folder / f"{name}.safetensors") for name in names])
    ).ready()
    for name, tag in zip(names, ["a%3Eb", "style %232", "%3Ci%3Ex", "100%253E"], strict=True):
        view.press(name)
        assert view.prompt.input_value() == f"<lyco:{tag}:1>"
        view.tab.locator(".lycoris-active").get_by_text(name, exact=True).wait_for()
        assert view.details(name).locator(".lycoris-written-tag").text_content() == f"<lyco:{tag}:1>"
        view.page.keyboard.press("Escape")
        view.press(name)
        assert view.prompt.input_value() == ""


def test_the_box_used_last_is_written_into(hundred, visit):
    view = visit(hundred).ready()
    view.search("anna", "1 adapter")
    view.hires.fill("sharp")
    view.press("anna")
    assert (view.prompt.input_value(), view.hires.input_value()) == ("", "sharp <lyco:anna:1>")
    assert view.tab.get_by_text("In the hires prompt").is_visible()
    view.prompt.focus()
    view.page.wait_for_function("!document.querySelector('.lycoris-active')")


def test_the_host_hears_of_it_and_undo_takes_it_back(hundred, visit):
    view = visit(hundred).ready()
    view.page.evaluate("""() => { window.heard = [];
        const listen = event => heard.push(event.target.value);
        document.querySelector('#txt2img_prompt').addEventListener('input', listen); }""")
    view.search("anna", "1 adapter")
    view.write("a cat")
    view.press("anna")
    assert view.page.evaluate("heard").pop() == "a cat <lyco:anna:1>"
    view.prompt.focus()
    view.page.keyboard.press("Control+z")
    assert view.prompt.input_value() == "a cat"


def test_a_text_that_the_host_sets_without_an_event_is_seen(hundred, visit):
    view = visit(hundred).ready()
    view.search("anna", "1 adapter")
    view.prompt.evaluate("box => { box.value = 'pasted <lyco:anna:0.5>'; }")
    view.tab.locator(".lycoris-active").get_by_text("in prompt · 0.5").wait_for()


def test_a_hypernetwork_has_its_own_kind_of_tag(own, visit):
    """An adapter of the same name is another card, with another tag."""

    def fill(folder):
        state = {"linear.0.weight": torch.ones(768, 768), "linear.0.bias": torch.ones(768)}
        torch.save({768: (state, state)}, folder / "glow.pt")
        browser_library.adapter(folder / "deep" / "ink.safetensors")

    view = visit(own(fill)).ready()
    view.write("a cat <lyco:glow:1>")
    view.press("glow")
    assert view.prompt.input_value() == "a cat <lyco:glow:1> <hypernet:glow:1>"
    view.press("glow")
    assert view.prompt.input_value() == "a cat <lyco:glow:1>"


def test_an_aesthetic_embedding_has_its_own_kind_of_tag(own, visit):
    view = visit(own(lambda folder: torch.save(torch.ones(768), folder / "glow.pt"))).ready()
    view.write("a cat <lyco:glow:1>")
    view.press("glow")
    assert view.prompt.input_value() == "a cat <lyco:glow:1> <aesthetic:glow:0.9>"
    view.press("glow")
    assert view.prompt.input_value() == "a cat <lyco:glow:1>"
    view.write("a cat <aesthetic:glow:slerp:text=a red dog>")
    view.tab.locator(".lycoris-active").wait_for()
