"""The command line as a user meets it: what each command prints and writes, and that errors are one sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lib_adapters.app import main as app
from lib_adapters.app.bar_chart import bar, chart
from lib_adapters.files.blocks import block_label
from lib_adapters.files.tensor_keys import LayerKey
from lib_adapters.hosts.diffusers.load_pipeline import open_pipeline
from tests.support.sample_adapters import MAKERS, adapter_file, layers

pytestmark = pytest.mark.filterwarnings("ignore")
QUICK = ("--steps", "2", "--size", "64")


@pytest.fixture(scope="module")
def place(sd1_folder, tmp_path_factory) -> Path:
    """A model and, beside it, a folder of adapters: the default place to look."""
    root = tmp_path_factory.mktemp("place")
    shutil.copytree(sd1_folder, root / "model")
    (root / "Lora").mkdir()
    shapes = layers(open_pipeline(sd1_folder, torch.device("cpu")).unet)
    for name, maker in MAKERS.items():
        adapter_file(root / "Lora" / f"{name}.safetensors", shapes, maker)
    return root


@pytest.fixture
def run(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = app.main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_generate_writes_pictures_that_tell_how_they_were_made(run, place, tmp_path):
    prompt = "a cat <lyco:LoRA:0.5>"
    code, out, _ = run(
        "generate", prompt, "--model", place / "model", *QUICK, "--count", 2, "--seed", 5, "--negative", "x"
    )
    assert code == 0
    assert "LoRA: 282 of 282 layers" in out
    first, second = (Image.open(tmp_path / "out" / f"seed-{seed}.png") for seed in (5, 6))
    assert first.size == (64, 64)
    assert first.tobytes() != second.tobytes()
    made = first.info["parameters"]
    assert made.startswith(f"{prompt}\nNegative prompt: x\nSteps: 2,")
    assert "Seed: 5, Size: 64x64" in made


def test_generate_never_overwrites_in_a_folder(run, place, tmp_path):
    for _ in range(2):
        run("generate", "a cat", "--model", place / "model", *QUICK, "--out", "here", "--seed", 1)
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["seed-1-2.png", "seed-1.png"]


def test_compare_is_a_sheet_with_a_column_for_each(run, place, tmp_path):
    prompt = "a cat <lyco:LoRA><lora:LoKr:0.5>"
    code, out, _ = run("generate", prompt, "--model", place / "model", *QUICK, "--compare", "--out", "sheet.png")
    assert code == 0
    assert str(tmp_path / "sheet.png") in out
    sheet = Image.open(tmp_path / "sheet.png").convert("RGB")
    step = (sheet.width - 10) // 4
    columns = [sheet.crop((10 + n * step, 37, 10 + n * step + 192, 37 + 192)).tobytes() for n in range(4)]
    assert len(set(columns)) == 4


def test_compare_without_a_prompt_shows_each_bundled_adapter_in_pairs(run, place, tmp_path, monkeypatch):
    bundled = tmp_path / "bundled"
    shutil.copytree(place / "Lora", bundled)
    entries = {name: {"kind": name, "effect": "none", "prompt": "a cat"} for name in ("IA3", "LoKr", "LoRA", "OFT")}
    (bundled / "README.json").write_text(json.dumps(entries))
    for module in ("compare", "arguments"):
        monkeypatch.setattr(f"lib_adapters.app.{module}.ADAPTERS", bundled)
    model = place.parent / "away"  # no folder of adapters beside it
    (model / "x").mkdir(parents=True, exist_ok=True)
    shutil.copytree(place / "model", model / "x" / "model", dirs_exist_ok=True)
    code, _, err = run("generate", "--compare", "--model", model / "x" / "model", *QUICK, "--out", "sheet.png")
    assert (code, "no adapter" in err) == (0, False)
    sheet = Image.open(tmp_path / "sheet.png").convert("RGB")
    assert sheet.width > 6 * 192  # three pairs in the first row, one in the second
    plain, tagged = (sheet.crop((10 + n * 202, 37, 202 + n * 202, 229)).tobytes() for n in (2, 3))
    assert plain != tagged


def test_inspect(run, place):
    code, out, _ = run("inspect", place / "Lora" / "LoRA.safetensors")
    assert code == 0
    for part in ("LoRA (282 layers)", "Stable Diffusion 1.x", "IN00", "M00", "OUT11", "█"):
        assert part in out
    code, out, _ = run("inspect", place / "Lora" / "LoRA.safetensors", "--json")
    told = json.loads(out)
    assert (told["rank"], told["alpha"], told["algorithms"], told["parts"]) == (2, 2.0, {"LoRA": 282}, ["unet"])
    assert sum(block["layers"] for block in told["blocks"].values()) == 282


@pytest.mark.parametrize("name", ["LoRA", "Full", "LoKr"])
def test_strength_without_a_model_is_the_strength_on_one(run, place, name):
    """ΔW of these does not read W, so both ways must agree in every block."""
    file = place / "Lora" / f"{name}.safetensors"
    alone, measured = (
        json.loads(run("inspect", file, "--json", *more)[1])["blocks"] for more in ((), ("--model", place / "model"))
    )
    assert alone.keys() == measured.keys()
    for block, told in alone.items():
        # Full changes biases too, which the file alone does not count
        assert told["strength"] == pytest.approx(measured[block]["strength"], rel=0.2 if name == "Full" else 1e-3)


def test_strength_that_depends_on_the_model_is_said_so(run, place):
    file = place / "Lora" / "OFT.safetensors"
    assert "--model DIR" in run("inspect", file)[1]
    assert json.loads(run("inspect", file, "--json")[1])["blocks"]["M00"]["strength"] is None
    measured = json.loads(run("inspect", file, "--json", "--model", place / "model")[1])
    assert measured["blocks"]["M00"]["strength"] > 0


def test_list(run, place, tmp_path):
    shutil.copytree(place / "Lora", tmp_path / "some")
    (tmp_path / "some" / "broken.safetensors").write_bytes(b"")
    code, out, _ = run("list", "some")
    assert code == 0
    assert len(out.splitlines()) == len(MAKERS) + 1
    told = {entry["name"]: entry for entry in json.loads(run("list", "some", "--json")[1])}
    assert told["LoKr"]["algorithms"] == {"LoKr": 282}
    assert "broken.safetensors" in told["broken"]["error"]


def test_merge_into_a_folder_draws_what_the_tags_draw(run, place, tmp_path):
    tags = "<lyco:LoRA:0.5><lora:OFT:-0.3>"
    model = place / "model"
    assert run("merge", tags, "--model", model, "--out", "merged")[0] == 0
    run("generate", f"a cat {tags}", "--model", model, *QUICK, "--out", "tags.png")
    run("generate", "a cat", "--model", "merged", *QUICK, "--out", "merged.png")
    tagged, merged = (Image.open(tmp_path / name).tobytes() for name in ("tags.png", "merged.png"))
    assert max(abs(a - b) for a, b in zip(tagged, merged, strict=True)) <= 1
    assert not list(tmp_path.glob("*.partial"))


def test_merge_into_one_file_is_exact_at_full_rank(run, place, tmp_path):
    stack = ("merge", "<lyco:LoRA:0.5><lora:LoKr:-0.3>", "--model", place / "model", "--dtype", "fp32")
    code, out, _ = run(*stack, "--out", "one.safetensors", "--rank", 512)
    assert code == 0
    assert "relative error 0.00%" in out
    assert "worst layer:" in out
    _, out, _ = run(*stack, "--out", "small.safetensors", "--rank", 2)
    assert float(out.split("relative error ")[1].split("%")[0]) > 1
    one, two = (
        json.loads(run("inspect", name, "--json")[1])["blocks"]["M00"]["strength"]
        for name in ("one.safetensors", "small.safetensors")
    )
    assert two < one


@pytest.mark.parametrize("dialect", ["kohya", "diffusers", "peft"])
def test_convert_there_and_back(run, place, dialect, tmp_path):
    source = load_file(place / "Lora" / "LoRA.safetensors")
    halved = {key: tensor / 2 if key.endswith("alpha") else tensor for key, tensor in source.items()}
    save_file(halved, "in.safetensors", {"ss_note": "kept"})
    assert run("convert", "in.safetensors", "there.safetensors", "--to", dialect)[0] == 0
    assert run("convert", "there.safetensors", "back.safetensors", "--to", "kohya")[0] == 0
    back = load_file("back.safetensors")
    assert back.keys() == halved.keys()
    for key in (key for key in halved if key.endswith("lora_up.weight")):
        alpha, again = (tensors[key.replace("lora_up.weight", "alpha")] for tensors in (halved, back))
        torch.testing.assert_close(back[key] * again, halved[key] * alpha)
    with safe_open("there.safetensors", "pt") as opened:
        assert opened.metadata()["ss_note"] == "kept"


def test_convert_dtype_and_pickle(run, place, tmp_path):
    tensors = load_file(place / "Lora" / "LoRA.safetensors")
    torch.save(tensors, "old.pt")
    assert run("convert", "old.pt", "new.safetensors", "--dtype", "bf16")[0] == 0
    new = load_file("new.safetensors")
    assert new.keys() == tensors.keys()
    assert all(torch.equal(new[key], tensor.bfloat16()) for key, tensor in tensors.items())


def test_convert_refuses_what_would_be_lost(run, place):
    for file, dialect in (("LoKr", "peft"), ("OFT", "diffusers")):
        code, _, err = run("convert", place / "Lora" / f"{file}.safetensors", "out.safetensors", "--to", dialect)
        assert code == 2
        assert "plain LoRA only" in err
    assert not Path("out.safetensors").exists()


def test_verify(run, place, tmp_path):
    code, out, _ = run("verify", place / "Lora", "--model", place / "model")
    assert code == 0
    assert out.count("bit for bit") == len(MAKERS)
    Path("bad.safetensors").write_bytes(b"nonsense")
    code, _, err = run("verify", place / "Lora", "bad.safetensors")
    assert code == 2
    assert err == f"1 of {len(MAKERS) + 1} files failed.\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate",),
        ("generate", "a", "--model", "nowhere"),
        ("generate", "a", "--size", "7"),
        ("generate", "a", "--steps", "0"),
        ("generate", "a", "--device", "tpu"),
        ("generate", "a", "--adapters", "nowhere"),
        ("generate", "a", "--compare"),
        ("inspect", "nofile.safetensors"),
        ("inspect", "."),
        ("list", "nowhere"),
        ("merge", "no tag", "--out", "x"),
        ("merge", "<lyco:nobody>", "--out", "x"),
        ("merge", "<lyco:LoRA:0>", "--out", "x"),
        ("merge", "[<lyco:LoRA:1>:5]", "--out", "x"),
        ("merge", "<lyco:LoRA:much>", "--out", "x"),
        ("convert", "nofile", "x.safetensors"),
        ("convert", "nofile", "x.ckpt"),
        ("verify", "nofile"),
        ("unknown",),
        (),
    ],
    ids=" ".join,
)
def test_errors_are_one_sentence_and_exit_code_2(run, place, arguments, capsys):
    model = ("--model", place / "model") if arguments and arguments[0] in ("generate", "merge") else ()
    try:
        code, _, err = run(*arguments[:1], *model, *arguments[1:])
    except SystemExit as stop:
        code, err = stop.code, capsys.readouterr().err
    assert code == 2
    lines = [line for line in err.splitlines() if line and "Loading" not in line]
    assert len(lines) == 1
    assert "Traceback" not in err
    assert "Unexpected" not in err


def test_stopping_says_so(run, place, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lib_adapters.app.inspect.open_adapter", stop)
    assert run("inspect", "x") == (130, "", "Stopped.\n")


def test_it_runs_as_a_module():
    done = subprocess.run([sys.executable, "-m", "lib_adapters", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    for command in ("generate", "inspect", "list", "merge", "convert", "verify"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("input_blocks_4_1_proj_in", "IN04"),
        ("down_blocks_1_attentions_0_proj_in", "IN04"),
        ("down_blocks_0_downsamplers_0_conv", "IN03"),
        ("input_blocks_3_0_op", "IN03"),
        ("up_blocks_1_upsamplers_0_conv", "OUT05"),
        ("up_blocks_3_resnets_2_conv1", "OUT11"),
        ("mid_block_resnets_1_conv1", "M00"),
        ("middle_block_1_proj_in", "M00"),
        ("conv_in", "IN00"),
        ("out_2", "LAST"),
        ("time_embed_0", "TIME"),
        ("joint_blocks_3_x_block_attn_qkv", "joint_blocks 03"),
    ],
)
def test_blocks_of_both_spellings(name, block):
    assert block_label(LayerKey("unet", name)) == block


def test_bars():
    assert bar(0, 4) == "    "
    assert bar(1e-9, 4) == "▏   "
    assert bar(0.5, 4) == "██  "
    assert bar(2, 4) == "████"
    assert chart({"a": (1.0, "x"), "bb": (0.0, "")}, 2) == ["a  ██ x", "bb"]
