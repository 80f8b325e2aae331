"""Tags inside prompt editing in the double of the web UI, against each step by itself on an untouched model."""

from __future__ import annotations

import pytest
import torch

from tests.fake_webui.checkpoint import checkpoint
from tests.fake_webui.sample_files import put, put_text
from tests.integration.webui.test_hypernetwork_handler import put_net
from tests.integration.webui.test_sampling_with_schedules import is_clean
from tests.support.reference_sampler import Picture, Plan, Row, Use, close, drawn, picture

STEPS = 4


@pytest.fixture(scope="module")
def untouched():
    return checkpoint()


def plan(model, uses, **options):
    return Plan([picture("3 4", uses, "5")], [model], **{"steps": STEPS, **options})


INK, BLUR = "<lyco:ink:1>", "<lora:blur:0.5>"


CASES = {
    f"[{INK}:2]": ((0, 0, 1, 1), None),
    f"[{INK}::0.5]": ((1, 1, 0, 0), None),
    f"[{INK}|{BLUR}]": ((1, 0, 1, 0), (0, 0.5, 0, 0.5)),
    "[<lyco:ink:1:mode=live>|<lora:blur:0.5:mode=live>]": ((1, 0, 1, 0), (0, 0.5, 0, 0.5)),
    f"[ {INK} : {BLUR} : 3 ]": ((1, 1, 1, 0), (0, 0, 0, 0.5)),
    f"[[{INK}::3]:1]{BLUR}": ((0, 1, 1, 0), 0.5),
    f"[[{INK}|{BLUR}]:1]": ((0, 0, 1, 0), (0, 0.5, 0, 0.5)),
    f"[{INK}:2][{INK}::1]": ((1, 0, 1, 1), None),
    "[<lyco:ink:1:0@0,1@1>::3]": ((0, 1 / 3, 2 / 3, 0), None),
    "[<lyco:ink:1:start=1:stop=3>|<lora:blur:0.5:stop=75%>]": ((0, 0, 1, 0), (0, 0.5, 0, 0)),
}


@pytest.mark.parametrize("written", CASES)
def test_a_tag_follows_the_brackets_around_it(webui, untouched, written):
    ink, blur = CASES[written]
    adapters = put(webui), put(webui, "blur", seed=5)
    job = webui.draw(f"3 4 {written}", "5", steps=STEPS)
    uses = [Use(adapters[0], ink, float(written.count("ink")))] + ([Use(adapters[1], blur, 0.5)] if blur else [])
    close(job.image, drawn(plan(untouched, uses)))
    assert job.encoded_texts[0] == ["3 4 "]  # once, and not for each step of the brackets
    assert job.infotext[0] == job.prompt
    webui.draw("3")
    assert is_clean(webui)


@pytest.mark.parametrize("sampler", ["Heun", "DDIM"])
def test_steps_are_the_users_on_each_sampler(webui, untouched, sampler):
    adapter = put(webui)
    job = webui.draw(f"3 4 [{INK}:1]", "5", sampler_name=sampler, steps=STEPS)
    close(job.image, drawn(plan(untouched, [Use(adapter, (0, 1, 1, 1), 1.0)], sampler=sampler)))


def test_words_beside_tags_are_left_to_the_host(webui):
    put(webui), put(webui, "blur", seed=5)
    job = webui.draw(f"3 [6 {INK}:7 {BLUR}:2] 4", "5", steps=STEPS)
    same = webui.draw("3 [6 :7 :2] 4<lyco:ink:1:stop=2><lora:blur:0.5:start=2>", "5", steps=STEPS)
    assert torch.equal(job.image, same.image)
    assert job.encoded_texts[0] == ["3 [6 :7 :2] 4"]


def test_the_text_encoder_has_its_part_in_all_steps(webui, untouched):
    words = put_text(webui)
    job = webui.draw("3 4 [<lyco:words:0.7>:2]", "5", steps=STEPS)
    close(job.image, drawn(plan(untouched, [Use(words, 0, 0.7)])))


def test_what_acts_in_no_step_acts_on_no_text(webui, untouched):
    words = put_text(webui)
    job = webui.draw("3 4 [<lyco:words:0.7>:9]", "5", steps=STEPS)
    close(job.image, drawn(plan(untouched, [])))
    assert any("acts in none of 4 steps" in line for line in job.comments)
    assert words.path.exists()


def test_the_steps_are_said(webui):
    put(webui), put(webui, "blur", seed=5)
    job = webui.draw(f"3 [{INK}::3] [|{BLUR}]", steps=STEPS)
    assert any(f"{INK}: acts in steps 1 to 3 of 4 (prompt editing)." in line for line in job.comments)
    assert any("acts in every second step, 2 to 4 of 4" in line for line in job.comments)


PASSES = {  # in a first pass of 4 steps, and in a second one of 3
    f"[{INK}:1]": ((0, 1, 1, 1), 1, (1, 1, 1), 1),
    f"[{INK}::1]": ((1, 0, 0, 0), 1, 0, 0),
    f"[{INK}:5]": (0, 0, (0, 1, 1), 1),
    f"[{INK}::1.0]": (1, 1, 0, 0),
    f"[{INK}:1.4]": (0, 0, (0, 1, 1), 1),
    f"[|{INK}]": ((0, 1, 0, 1), 1, (0, 1, 0), 1),
    "[<lyco:ink:1:hr=0.2>:2]": ((0, 0, 1, 1), 1, 0.2, 0.2),
}


@pytest.mark.parametrize("written", PASSES)
def test_the_second_pass_counts_as_the_host_does(webui, untouched, written):
    adapter = put(webui)
    unet, te, second, second_te = PASSES[written]
    job = webui.draw(f"3 4 {written}", "5", enable_hr=True, steps=4, hr_second_pass_steps=3)
    samples = drawn(plan(untouched, [Use(adapter, unet, te)]))
    close(job.image, drawn(plan(untouched, [Use(adapter, second, second_te)], steps=3), samples))


def test_the_old_timelines(webui, untouched):
    adapter = put(webui)
    webui.shared.opts.data["use_old_scheduling"] = True
    job = webui.draw(f"3 4 [{INK}:0.5]", "5", enable_hr=True, steps=4, hr_second_pass_steps=3)
    samples = drawn(plan(untouched, [Use(adapter, (0, 0, 1, 1), 1)]))
    close(job.image, drawn(plan(untouched, [Use(adapter, (0, 0, 1), 1)], steps=3), samples))
    assert job.encoded_texts[0] == ["3 4 "]
    assert job.extra_generation_params["Old prompt editing timelines"] is True  # else a pasted picture is another one
    webui.shared.opts.data["use_old_scheduling"] = False
    assert "Old prompt editing timelines" not in webui.draw(f"3 4 [{INK}:0.5]", "5").extra_generation_params


def test_the_hires_prompt_has_its_own_brackets(webui, untouched):
    adapter = put(webui)
    job = webui.draw("3 4 <lyco:ink:1>", "5", enable_hr=True, steps=3, hr_prompt="3 4 [<lyco:ink:1>::5]")
    samples = drawn(plan(untouched, [Use(adapter)], steps=3))
    close(job.image, drawn(plan(untouched, [Use(adapter, (1, 1, 0), 1)], steps=3), samples))


@pytest.mark.parametrize("apart", [True, False])
def test_each_part_has_its_own_brackets(webui, untouched, apart):
    ink, words = put(webui), put_text(webui)
    webui.shared.opts.lycoris_parts = apart
    job = webui.draw("3 [<lyco:ink:1>:2] AND 6 [ <lyco:words:1>::1] :0.5", "5", steps=STEPS)
    uses = (Use(ink, (0, 0, 1, 1), 1), Use(words, 0, 1))
    parts = (Row("3", uses[:1]), Row("6", uses[1:], 0.5)) if apart else (Row("3", uses), Row("6", uses, 0.5))
    close(job.image, drawn(Plan([Picture(parts, Row("5", () if apart else uses))], [untouched], steps=STEPS)))


def test_the_negative_side_and_each_picture_of_a_batch(webui, untouched):
    ink, blur = put(webui), put(webui, "blur", seed=5)
    webui.shared.opts.lycoris_negative = True
    job = webui.draw([f"3 [{INK}:2]", f"4 [{INK}::1]"], f"5 [{BLUR}:3]", batch_size=2, steps=STEPS)
    late = Use(blur, (0, 0, 0, 0.5), 0.5)
    pictures = []
    for text, course in (("3", (0, 0, 1, 1)), ("4", (1, 0, 0, 0))):
        use = Use(ink, course, 1)
        pictures.append(Picture((Row(text, (use,)),), Row("5", (use, late))))
    close(job.image, drawn(Plan(pictures, [untouched], steps=STEPS)))


def test_other_kinds_of_tags_never_reach_the_text(webui, untouched):
    """Where each part is encoded with adapters of its own, we hand the host its texts."""
    words = put_text(webui)
    job = webui.draw("3 <lyco:words:1> AND 4 <other:x:1>", "5")
    parts = (Row("3", (Use(words, 0, 1),)), Row("4"))
    close(job.image, drawn(Plan([Picture(parts, Row("5"))], [untouched])))


def test_brackets_that_are_no_prompt_editing_are_reported(webui, untouched):
    adapter = put(webui)
    job = webui.draw(f"3 4 [{INK}:]", "5", steps=STEPS)
    assert any("does not read the brackets around it as prompt editing" in line for line in job.comments)
    assert adapter.path.exists()


def test_a_prompt_that_was_changed_behind_the_tags_back_is_reported(webui):
    put(webui)
    put(webui, "blur", seed=5)

    class Changing:
        def process(self, p):
            def parse():
                p.prompts = [f"3 [{BLUR}:2]"]
                type(p).parse_extra_network_prompts(p)

            p.parse_extra_network_prompts = parse

    webui.always_on.append(Changing())
    job = webui.draw("3", steps=STEPS)
    assert any("prompt editing around tags is not recognised" in line for line in job.comments)


def test_hypernetworks_have_one_strength_and_say_so(webui):
    put_net(webui)
    job = webui.draw("3 [<hypernet:glow:0.7>:2]", steps=STEPS)
    assert any("has one strength in all steps, so prompt editing" in line for line in job.comments)


def test_a_pasted_picture_is_drawn_again(webui):
    """Names are found by hash and brackets stay as they are, chance's part is pinned inside them."""
    put(webui)
    job = webui.draw(f"3 [{INK}::2] [<lyco:ink:0.5:lbw=R,R,R,R,R,R,R,R,R,R,R,R,R,R,R,R,R>|]", steps=STEPS)
    text, _ = job.infotext
    assert text.startswith(f"3 [{INK}::2] [<lyco:ink:0.5:lbw=")
    pasted = {"Prompt": text.replace("lyco:ink:", "lyco:old name:")} | {
        "Lyco hashes": job.extra_generation_params["Lyco hashes"].replace("ink", "old name")
    }
    webui.call("infotext_pasted", "", pasted)
    assert pasted["Prompt"] == text
    assert torch.equal(webui.draw(pasted["Prompt"], steps=STEPS).image, job.image)
