"""The README and docs/ agree with the results; the command that measures runs; its definitions are the trainers'."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import full_run, render, whole_model
from benchmarks.checked_formats import KINDS
from benchmarks.correctness import Verdict
from benchmarks.synthetic_adapters import RECIPES
from tests.support.peer_libraries import lycoris_job
from tests.support.trainer_oracles import apply

ROOT = Path(__file__).resolve().parents[2]
PICTURES = {"speed.png", "memory.png", "correctness.png"}
LORA, LOHA, LOKR = ("locon", "LoConModule"), ("loha", "LohaModule"), ("lokr", "LokrModule")
OFT, DORA, TUCKER = ("diag_oft", "DiagOFTModule"), {"weight_decompose": True}, {"use_tucker": True}
SMALL = {"factor": 2, "lora_dim": 2, "alpha": 1.0}
TRAINERS = {  # kind -> release, module, layer, options
    "LoRA": ("4.1.3", LORA, "linear", {}),
    "LoCon": ("4.1.3", LORA, "conv3x3", {}),
    "LoCon, tucker": ("4.1.3", LORA, "conv3x3", TUCKER),
    "rs-LoRA of LyCORIS 3.0": ("3.0.0.post1", LORA, "linear", {"rs_lora": True}),
    "DyLoRA of LyCORIS": ("4.1.3", ("dylora", "DyLoraModule"), "linear", {"block_size": 4}),
    "LoHa": ("4.1.3", LOHA, "linear", {}),
    "LoHa, tucker": ("4.1.3", LOHA, "conv3x3", TUCKER),
    "LoKr": ("4.1.3", LOKR, "linear", SMALL),
    "LoKr, both whole": ("4.1.3", LOKR, "linear", {"factor": 4, "lora_dim": 100000}),
    "LoKr, tucker": ("4.1.3", LOKR, "conv3x3", {**SMALL, **TUCKER}),
    "DoRA": ("4.1.3", LORA, "linear", DORA),
    "DoRA by columns": ("3.0.0.post1", LORA, "linear", DORA),
    "DoRA on LoHa": ("4.1.3", LOHA, "linear", DORA),
    "DoRA on LoKr": ("4.1.3", LOKR, "linear", {**SMALL, **DORA}),
    "GLoRA": ("4.1.3", ("glora", "GLoRAModule"), "linear", {}),
    "GLoRA before 3.0": ("2.2.0", ("glora", "GLoRAModule"), "linear", {}),
    "OFT": ("4.1.3", OFT, "linear", {}),
    "OFT, rescaled": ("4.1.3", OFT, "linear", {"rescaled": True}),
    "OFT, bound": ("4.1.3", OFT, "linear", {"constraint": 0.05}),
    "OFT of LyCORIS 2.0": ("2.0.0", OFT, "linear", {}),
    "BOFT": ("4.1.3", ("boft", "ButterflyOFTModule"), "linear", {}),
    "IA3": ("4.1.3", ("ia3", "IA3Module"), "linear", {}),
    "Full": ("4.1.3", ("full", "FullModule"), "linear", {}),
    "T-LoRA": ("4.1.3", ("tlora", "TLoraModule"), "linear", {}),
}
ELSEWHERE = {"LoRA, no alpha", "LoRA, a rank for each layer", "OFT on the input", "Norm", "ABBA"}  # test_algorithms.py


@pytest.mark.parametrize("name", TRAINERS)
def test_the_definition_of_a_kind_is_what_its_trainer_computes(name, tried):
    tried("definitions of kinds of files", "kinds beside their trainer").add()
    release, module, layer, options = TRAINERS[name]
    job = lycoris_job(release, *module, layer, **options)
    weight = job.base.weight.double()
    delta = KINDS[name].recipe.delta(weight, {leaf: value.double() for leaf, value in job.leaves.items()})
    bias = job.base.bias + job.leaves.get("diff_b", 0.0)
    assert job.off(apply(job.base, job.x.double(), weight + delta, bias.double())) < 1e-4


def test_every_kind_has_its_trainer_and_every_algorithm_its_kind():
    assert {*TRAINERS, *ELSEWHERE} == KINDS.keys()
    timed = {id(recipe.delta) for recipe in RECIPES.values()}
    assert len(timed) <= len(KINDS)


def test_readme_and_docs_agree_with_the_results():
    found = full_run.kept(ROOT)
    readme, formats = ((ROOT / name).read_text("utf-8") for name in ("README.md", "docs/formats.md"))
    assert render.put(readme, render.NUMBERS, render.summary(found)) == readme
    assert render.put(formats, render.PEERS, render.peers()) == formats
    assert render.numbers(found, full_run.larger(ROOT)) == (ROOT / "docs" / "numbers.md").read_text("utf-8")


def test_readme_summary_is_one_image_and_at_most_six_lines():
    lines = [line for line in render.summary(full_run.kept(ROOT)).splitlines() if line]
    assert lines[0].startswith("![")
    assert len(lines[1:]) <= 6


def test_what_is_kept_was_measured_in_full():
    found = full_run.kept(ROOT)
    assert found.keys() == full_run.PARTS.keys()
    assert all(part["about"]["family"] == "sd1" for part in found.values())
    assert {row["kind"] for row in found["whole"]["rows"]} == set(whole_model.KINDS)
    assert found["whole"]["about"]["one_layer_in"] == 1
    assert {row["kind"] for row in found["correctness"]["rows"]} == KINDS.keys()


def test_ours_is_right_and_given_back_in_all_that_is_kept():
    found = full_run.kept(ROOT)
    mine = [verdict for row in found["correctness"]["rows"] if (verdict := Verdict(**row)).who.startswith("lib_")]
    assert len(mine) == 2 * len(KINDS)
    assert all(verdict.right and verdict.exact for verdict in mine)
    assert all(row["exact"] for row in found["whole"]["rows"] if row["who"] == "lib_adapters")


def test_pictures_are_there_and_small():
    folder = ROOT / "docs" / "numbers"
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.png")}
    assert sizes.keys() == PICTURES
    assert sum(sizes.values()) < 150_000


@pytest.mark.slow
def test_the_command_measures_everything_and_writes_it(tmp_path, tried):
    """On the smallest model; how fast anything was is not looked at."""
    pytest.importorskip("matplotlib", reason="only the demo's packages can draw")
    (tmp_path / "docs").mkdir()
    for path, block in (("README.md", "numbers"), ("docs/formats.md", "peers")):
        text = f"before\n\n<!-- {block} -->\nold\n<!-- /{block} -->\n\nafter\n"
        (tmp_path / path).write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks", "numbers", "--quick", "--root", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for path, block, start in (("README.md", "numbers", "!["), ("docs/formats.md", "peers", "| release |")):
        page = (tmp_path / path).read_text("utf-8")
        assert page.startswith(f"before\n\n<!-- {block} -->\n{start}")
        assert page.endswith(f"<!-- /{block} -->\n\nafter\n")
        assert "old" not in page.split("\n")
    folder = tmp_path / "docs" / "numbers"
    assert {path.name for path in folder.glob("*.png")} == PICTURES
    verdicts = [Verdict(**row) for row in full_run.kept(tmp_path)["correctness"]["rows"]]
    assert all(verdict.right and verdict.exact for verdict in verdicts if verdict.who.startswith("lib_"))
    assert render.numbers(full_run.kept(tmp_path)) == (tmp_path / "docs" / "numbers.md").read_text("utf-8")
    tried("numbers", "readers on kinds of files").add(len(verdicts))


def test_put_replaces_only_its_block():
    before = "a\n<!-- n -->\nx\n<!-- /n -->\nb\n"
    after = render.put(before, "n", "new\n")
    assert after == "a\n<!-- n -->\nnew\n<!-- /n -->\nb\n"
    assert render.put(after, "n", "new\n") == after
