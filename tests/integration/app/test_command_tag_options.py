"""What tags can say, on the command line: presets, the negative side, the sheet's columns, and what cannot be kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open

from lib_adapters.app import main as app
from lib_adapters.app.compare import _prompt_rows
from lib_adapters.hosts.diffusers.generator import Settings
from tests.integration.app.test_commands import QUICK, place, run  # noqa: F401 - fixtures

pytestmark = pytest.mark.filterwarnings("ignore")
ONES, NONES = "1,0,0,0,0,0,0,0,0.5,1,1,1", "0,0,0,0,0,0,0,0,0,0,0,0"


@pytest.fixture
def draw(run, place, tmp_path):
    def drawn(prompt, *more, name="one"):
        code, out, err = run("generate", prompt, "--model", place / "model", *QUICK, "--out", f"{name}.png", *more)
        assert code == 0, err
        with Image.open(tmp_path / f"{name}.png") as image:
            return image.tobytes(), image.info["parameters"], out, err

    return drawn


def test_presets_of_a_file_are_known_by_name(draw, tmp_path):
    (tmp_path / "mine.txt").write_text(f"# mine\nMINE:{ONES}\n[lbwe]\nNOFF:IN00-OUT11:ff:0\n", encoding="utf-8")
    more = ("--presets", tmp_path / "mine.txt")
    named, _, out, _ = draw("a cat <lyco:LoRA:lbw=mine:lbwe=NOFF>", *more)
    written, *_ = draw(f"a cat <lyco:LoRA:lbw={ONES}:lbwe=IN00-OUT11:ff:0>")
    plain, *_ = draw("a cat <lyco:LoRA>")
    assert named == written != plain
    assert "at a block weight of 0" in out
    *_, err = draw("a cat <lyco:LoRA:lbw=MINE>")
    assert "'MINE' in lbw= is neither a preset nor a block" in err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("MINE:1,0", "bad.txt: line 1: MINE: lbw='1,0' has 2 numbers"),
        ("\nA:IN05:C\n", "bad.txt: line 2: A: 'C' is not a finite number"),
        ("5:1,0", "bad.txt: line 1: '5' cannot be a preset's name"),
        (None, "bad.txt: there is no such file of presets"),
    ],
)
@pytest.mark.parametrize("command", ["generate", "merge"])
def test_a_file_of_presets_that_cannot_be_used_is_named(run, place, command, text, sentence):
    if text is not None:
        Path("bad.txt").write_text(text, encoding="utf-8")
    more = ("--out", "x.safetensors") if command == "merge" else QUICK
    code, _, err = run(command, "<lyco:LoRA>", "--model", place / "model", "--presets", "bad.txt", *more)
    assert code == 2
    assert sentence in err
    assert err.count("\n") == 1 + err.count("Loading")


def test_tags_of_the_negative_prompt_act_where_they_are_asked_to(draw):
    prompt, negative = "a cat", ("--negative", "a dog <lyco:OFT:0.8>")
    words, made, _, err = draw(prompt, *negative)
    assert "tags are plain words" in err
    assert "Negative tags" not in made
    tags, made, out, err = draw(prompt, *negative, "--negative-tags")
    assert err == "" or "plain words" not in err
    assert "OFT: 282 of 282 layers" in out
    assert "\nNegative prompt: a dog <lyco:OFT:0.8>\nSteps: 2, " in made
    assert made.endswith(", Negative tags: True")
    assert tags != words


def sheet(monkeypatch):
    """What the next sheet shows: the titles, and the pictures by them."""
    rows = []
    monkeypatch.setattr(
        "lib_adapters.app.compare.contact_sheet", lambda found, _: rows.extend(found) or found[0][0].image
    )
    return rows


def test_columns_tell_what_their_tags_say(run, place, monkeypatch):
    rows = sheet(monkeypatch)
    tags = [
        "<lyco:LoRA:0@0,1@1>", "<lyco:LoRA:off>", "<lora:LoKr:0.5:0~0;0.8~50%:3>", "<lyco:OFT:1:OUTALL:start=0.5>",
        "<lyco:IA3:te=0.2:lbw=IN05-OUT03:0.5,MID:0:mode=live>", "<lyco:Full:unet=0.3>",
    ]  # fmt: skip
    code, _, err = run("generate", f"a cat {''.join(tags)}", "--model", place / "model", *QUICK, "--compare")
    assert (code, "Unexpected" in err) == (0, False)
    assert [cell.title for cell in rows[0]] == [
        "without",
        "LoRA  0@0%,1@100%",
        "LoKr  te 0.5, unet 0@0%,0.8@50%  dyn=3",
        "OFT  1  lbw=OUTALL  start=0.5",
        "IA3  0.2  lbw=IN05-OUT03:0.5,MID:0  mode=live",
        "Full  te 1, unet 0.3",
        "all together",
    ]
    assert len({cell.image.tobytes() for cell in rows[0]}) == 7


def test_a_column_keeps_its_tag_in_its_brackets():
    prompt = "a [<lyco:x:1>:10] [<lora:y>|<lyco:z:off>]"
    (row,) = _prompt_rows(prompt, Settings("b [<lora:w:1>::3]<lyco:v:1>", negative_tags=True), 1)
    assert [shot.prompt for shot in row] == [
        "a  ",
        "a [<lyco:x:1>:10] [<lora:y:off>|<lyco:z:off>]",
        "a [<lyco:x:1:off>:10] [<lora:y>|<lyco:z:off>]",
        "a  ",
        "a  ",
        prompt,
    ]
    negatives = [shot.settings.negative for shot in row[3:5]]
    assert negatives == ["b [<lora:w:1>::3]<lyco:v:1:off>", "b [<lora:w:1:off>::3]<lyco:v:1>"]


def test_the_negative_sides_tags_have_columns_too(run, place, monkeypatch):
    rows, negative = sheet(monkeypatch), "a dog <lyco:OFT:0.8><lyco:IA3:off>"
    call = (
        "generate",
        "a cat <lyco:LoRA:0.5>",
        "--model",
        place / "model",
        *QUICK,
        "--compare",
        "--negative",
        negative,
    )
    assert run(*call, "--negative-tags", "--count", 2, "--seed", 4)[0] == 0
    titles = ["without", "LoRA  0.5", "negative: OFT  0.8", "all together"]
    assert [[cell.title for cell in row] for row in rows] == [titles, titles]
    assert [row[0].note for row in rows] == ["seed 4", "seed 5"]
    assert len({cell.image.tobytes() for row in rows for cell in row}) == 8
    plain = sheet(monkeypatch)
    assert run("generate", "a cat <lyco:LoRA:0.5>", *call[2:9], "--negative", "a dog ", "--seed", 4)[0] == 0
    assert [cell.image.tobytes() for cell in plain[0]] == [cell.image.tobytes() for cell in rows[0][:2]]
    assert run("generate", "a cat <lyco:LoRA:off>", *call[2:])[0] == 2


def test_settings_without_what_is_on_the_negative_side():
    there = Settings("x <lyco:a:1> y", negative_tags=True)
    assert [tag.name for tag in there.negative_request_tags] == ["a"]
    assert there.without_negative_tags().negative == "x  y"
    words = Settings("x <lyco:a:1> y")
    assert words.negative_request_tags == ()
    assert words.without_negative_tags() == words


@pytest.mark.parametrize(
    "tag", ["LoRA:0@0,1@1", "LoRA:start=3", "LoRA:step=1-2", "LoRA:1:1:1@0,2@1", "LoRA:dyn=timestep"]
)
@pytest.mark.parametrize("out", ["kept", "kept.safetensors"])
def test_what_moves_cannot_be_kept(run, place, tmp_path, tag, out):
    code, _, err = run("merge", f"<lyco:OFT:0.5><lyco:{tag}>", "--model", place / "model", "--out", out)
    assert code == 2
    assert "LoRA: weights that are kept have no steps, so no strength may follow them." in err
    assert "OFT" not in err.split("LoRA: weights")[1]
    assert not (tmp_path / out).exists()


def test_what_is_kept_is_what_would_be_drawn(run, place, draw, tmp_path):
    tags = f"<lyco:LoRA:0.5:lbw={ONES}:lbwe=:attn2:0.3><lyco:OFT:off><lyco:IA3:0.4@0,0.4@1:mode=live>"
    assert run("merge", tags, "--model", place / "model", "--out", "merged")[0] == 0
    drawn, *_ = draw(f"a cat {tags}")
    kept, *_ = draw("a cat ", "--model", tmp_path / "merged")
    assert max(abs(a - b) for a, b in zip(drawn, kept, strict=True)) <= 1
    assert run("merge", "<lyco:LoRA:off>", "--model", place / "model", "--out", "x")[0] == 2
    assert run("merge", f"<lyco:LoRA:lbw={NONES}>", "--model", place / "model", "--out", "y")[0] == 0  # TIME and LAST


def test_a_file_tells_the_numbers_that_chance_chose(run, place):
    tags = "<lyco:LoRA:0.5:lbw=R,R,R,R,R,R,R,R,R,R,R,R>"
    assert run("merge", tags, "--model", place / "model", "--out", "one.safetensors")[0] == 0
    with safe_open("one.safetensors", "pt") as opened:
        told = opened.metadata()["merged_from"]
    assert told.startswith("<lyco:LoRA:0.5:lbw=0.")
    assert "R," not in told


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("generate", ["--presets FILE", "--negative-tags", "--compare", "--clip DIR"]),
        ("merge", ["--presets FILE", "--rank", "--dtype"]),
        ("page", ["--presets FILE", "--port", "--no-browser"]),
        ("inspect", ["--model DIR", "--json"]),
        ("list", ["--json"]),
        ("verify", ["--model DIR"]),
        ("convert", ["--to"]),
        ("aesthetic", []),
    ],
)
def test_every_command_tells_what_it_takes(command, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        app.parser().parse_args([command, "--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert all(word in said for word in words)
