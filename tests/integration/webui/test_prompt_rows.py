"""Adapters for some rows of a batch in the double: parts joined by AND, the negative side, each picture its own."""

from __future__ import annotations

import pytest
import torch

from lib_adapters.hosts.webui import settings
from tests.fake_webui.checkpoint import checkpoint
from tests.fake_webui.sample_files import put, put_text
from tests.integration.webui.test_sampling_with_schedules import is_clean
from tests.support.reference_sampler import Picture, Plan, Row, Use, close, drawn, picture


@pytest.fixture(scope="module")
def untouched():
    return checkpoint()


def both_on(webui):
    """An adapter on the UNet and one on the text encoder."""
    return put(webui), put_text(webui)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("texts", [("3 4", "7 8"), ("3 4", "3 4"), ("3 4", "3 4 5 6 7 8 9 10"), ("3 4", ""), ("", "")])
def test_parts_have_their_own(webui, untouched, texts, whole):
    ink, words = both_on(webui)
    blur = put(webui, "blur", seed=5)
    webui.shared.opts.batch_cond_uncond = whole
    first = f"{texts[0]} <lyco:ink:0:0@0,1@1><lyco:words:0.8>"
    job = webui.draw(f"{first} :0.6 AND {texts[1]} <lyco:blur:0.7>", "5")
    parts = (
        Row(texts[0], (Use(ink, (0, 0.5, 1), 0), Use(words, 0, 0.8)), 0.6),
        Row(texts[1], (Use(blur, 0.7, 0.7),)),
    )
    close(job.image, drawn(Plan([Picture(parts, Row("5"))], [untouched])))
    assert torch.equal(webui.draw("3 AND 4", "5").image, webui.draw("3 AND 4", "5").image)
    assert is_clean(webui)


def test_parts_whose_texts_the_host_reads_as_they_are(webui, untouched):
    """Nothing is for the text encoder, so no text is marked."""
    ink, blur = put(webui), put(webui, "blur", seed=5)
    job = webui.draw("3 4 <lyco:ink:0:0.8> AND 6 AND 7 8 <lyco:blur:0:1@0,0@1>", "5")
    parts = (Row("3 4", (Use(ink, 0.8),)), Row("6"), Row("7 8", (Use(blur, (1, 0.5, 0)),)))
    close(job.image, drawn(Plan([Picture(parts, Row("5"))], [untouched])))
    assert job.encoded_texts[0] == ["3 4  AND 6 AND 7 8 "]


def test_equal_words_in_two_parts_with_other_text_encoders(webui, untouched):
    words, more = put_text(webui), put_text(webui, "more")
    job = webui.draw("3 4 <lyco:words:0.9> AND 3 4 <lyco:more:-0.6> AND 3 4", "3 4")
    parts = (Row("3 4", (Use(words, 0, 0.9),)), Row("3 4", (Use(more, 0, -0.6),)), Row("3 4"))
    close(job.image, drawn(Plan([Picture(parts, Row("3 4"))], [untouched])))


def test_parts_may_be_left_together(webui, untouched):
    ink, words = both_on(webui)
    webui.shared.opts.lycoris_parts = False
    job = webui.draw("3 4 <lyco:ink:0.5> AND 7 <lyco:words:0.8>", "5")
    uses = (Use(ink, 0.5, 0.5), Use(words, 0.8, 0.8))
    parts = (Row("3 4", uses), Row("7", uses))
    close(job.image, drawn(Plan([Picture(parts, Row("5", uses))], [untouched])))


def test_a_word_in_capitals_inside_a_name_parts_nothing(webui, untouched):
    adapter = put(webui, "oil AND ink")
    job = webui.draw("3 <lyco:oil AND ink:0.5>", "5")
    close(job.image, drawn(Plan([picture("3", [Use(adapter, 0.5, 0.5)], "5")], [untouched])))


def test_parts_of_pictures_with_other_counts(webui, untouched):
    ink, words = both_on(webui)
    prompts = ["3 <lyco:ink:0.5> AND 4", "6 <lyco:words:1>", "3 AND 7 AND 8 <lyco:ink:1:1@0,0@1>"]
    job = webui.draw(prompts, ["5", "5", "9"], batch_size=3)
    pictures = [
        Picture((Row("3", (Use(ink, 0.5, 0.5),)), Row("4")), Row("5")),
        picture("6", [Use(words)], "5"),
        Picture((Row("3"), Row("7"), Row("8", (Use(ink, (1, 0.5, 0), 1),))), Row("9")),
    ]
    close(job.image, drawn(Plan(pictures, [untouched])))
    assert any("part 3 of picture 3 alone" in line for line in job.comments), job.comments


def test_each_picture_of_a_batch_its_own(webui, untouched):
    """The negative text is the same for both, and yet encoded for each."""
    ink, words = both_on(webui)
    job = webui.draw(["3 <lyco:ink:1:0@0,1@1>", "4 <lyco:words:0.7>"], "5", batch_size=2, n_iter=1)
    pictures = [picture("3", [Use(ink, (0, 0.5, 1), 1)], "5"), picture("4", [Use(words, 0.7, 0.7)], "5")]
    close(job.image, drawn(Plan(pictures, [untouched])))
    assert job.all_prompts == ["3 <lyco:ink:1:0@0,1@1>", "4 <lyco:words:0.7>"]


def test_batch_after_batch(webui, untouched):
    ink, words = both_on(webui)
    prompts = ["3 <lyco:ink>", "4 <lyco:ink>", "3 <lyco:words>", "4", "6", "7"]
    job = webui.draw(prompts, "5", batch_size=2, n_iter=3)
    uses = [[Use(ink)], [Use(ink)], [Use(words)], [], [], []]
    pictures = [picture(text.split()[0], use, "5") for text, use in zip(prompts, uses, strict=True)]
    for number in range(3):
        some = slice(2 * number, 2 * number + 2)
        close(torch.stack(job.images[some]), drawn(Plan(pictures[some], [untouched], seed=1 + 2 * number)))
    assert is_clean(webui)


def test_a_prompt_of_tags_alone_in_a_batch(webui, untouched):
    words = put_text(webui)
    job = webui.draw(["<lyco:words:1>", "4"], "", batch_size=2)
    close(job.image, drawn(Plan([picture("", [Use(words)]), picture("4")], [untouched])))


def test_tags_in_the_negative_prompt_are_words_while_the_setting_is_off(webui, untouched):
    both_on(webui)
    job = webui.draw("3", "5 <lyco:ink:1>")
    close(job.image, drawn(Plan([picture("3", [], "5")], [untouched])))
    assert any("stands in the negative prompt, where tags are plain words" in line for line in job.comments)
    assert job.encoded_texts[1] == ["5 <lyco:ink:1>"]


@pytest.mark.parametrize(
    ("positive", "negative"),
    [
        ("", "<lyco:ink:1:0@0,1@1><lyco:words:0.8>"),
        ("<lyco:blur:0.5>", "<lyco:ink:1:0@0,1@1><lyco:words:0.8>"),
        ("<lyco:words:0.8>", "<lyco:words:0.8>"),
        ("", "<lyco:ink:much>"),
        ("<lyco:blur:0.5>", "<lyco:nobody>"),
        ("", "<lyco:ink:0.7:off>"),
    ],
)
def test_the_negative_side_has_its_own(webui, untouched, positive, negative):
    ink, words = both_on(webui)
    blur = put(webui, "blur", seed=5)
    webui.shared.opts.lycoris_negative = True
    job = webui.draw(f"3 4 {positive}", f"5 {negative}")
    known = {"ink": Use(ink, (0, 0.5, 1), 1.0), "words": Use(words, 0.8, 0.8), "blur": Use(blur, 0.5, 0.5)}

    def uses(text):
        plain = ":much" not in text and ":off" not in text
        return tuple(use for name, use in known.items() if plain and f":{name}:" in text)

    every = {use.adapter.name: use for use in (*uses(positive), *uses(negative))}
    one = Picture((Row("3 4", uses(positive)),), Row("5", tuple(every.values())))
    close(job.image, drawn(Plan([one], [untouched])))
    assert [text.strip() for text in job.encoded_texts[1]] == ["5"]
    assert job.infotext == (f"3 4 {positive}", f"5 {negative}")
    assert job.extra_generation_params["Lyco negative tags"] is True
    if "much" in negative or "nobody" in negative:
        assert any("much" in line or "nobody" in line for line in job.comments)
    webui.draw("3")
    assert is_clean(webui)


def test_hashes_of_the_negative_side(webui):
    put(webui)
    webui.shared.opts.lycoris_negative = True
    job = webui.draw("3", "5 <lyco:ink:1>")
    assert job.extra_generation_params["Lyco hashes"].startswith("ink: ")
    short = job.extra_generation_params["Lyco hashes"].removeprefix("ink: ")
    pasted = {"Prompt": "3", "Negative prompt": "5 <lyco:old:1>", "Lyco hashes": f"old: {short}"}
    webui.call("infotext_pasted", "", pasted)
    assert pasted["Negative prompt"] == "5 <lyco:ink:1>"


@pytest.mark.slow
def test_the_host_makes_conditionings_only_when_something_changed(webui, untouched):
    words = put_text(webui)

    def made(prompt):
        before = webui.encoded
        job = webui.draw(prompt, "5")
        return webui.encoded - before, job.image

    assert made("3 <lyco:words:0.5> AND 4")[0] == 2
    count, first = made("3 <lyco:words:0.5> AND 4")
    assert count == 0
    count, second = made("3 <lyco:words:0.9> AND 4")
    assert count == 2
    for strength, image in ((0.5, first), (0.9, second)):
        parts = (Row("3", (Use(words, 0, strength),)), Row("4"))
        close(image, drawn(Plan([Picture(parts, Row("5"))], [untouched])))
    assert made("3 <lyco:words:0.9> AND 4")[0] == 0
    assert made("3 AND 4 <lyco:words:0.9>")[0] == 2


def test_the_default_adapter_is_for_every_part(webui, untouched):
    ink, blur = put(webui), put(webui, "blur", seed=5)
    webui.shared.opts.lycoris_default = "ink"
    job = webui.draw("3 <lyco:blur:1> AND 4", "5", n_iter=2)
    parts = (Row("3", (Use(ink, 0.5, 0.5), Use(blur))), Row("4", (Use(ink, 0.5, 0.5),)))
    for number, image in enumerate(job.images):
        close(image[None], drawn(Plan([Picture(parts, Row("5"))], [untouched], seed=1 + number)))
    webui.shared.opts.lycoris_default = settings.NONE_CHOICE
    again = webui.draw(job.all_prompts[0], "5")
    close(again.image[0], job.images[0])
