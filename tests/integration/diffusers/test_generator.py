"""Diffusers folders as a host: prompt with tags in, picture and report out, the model as it was afterwards."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from lib_adapters.errors import AdapterError, InvalidModelFolder
from lib_adapters.hosts.diffusers.folder_resolver import FolderResolver
from lib_adapters.hosts.diffusers.generator import Generator, Settings
from lib_adapters.hosts.diffusers.load_pipeline import open_pipeline
from lib_adapters.library.file_names import escape_name
from tests.support.sample_adapters import adapter_file, layers
from tests.support.tiny_pipelines import model_folder

pytestmark = pytest.mark.filterwarnings("ignore")  # what other people's packages say about each other
CPU = torch.device("cpu")
QUICK = Settings(steps=2, seed=3, size=(64, 64))


def pixels(picture) -> np.ndarray:
    return np.asarray(picture.image, dtype=np.int16)


def state(pipe) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in pipe.unet.state_dict().items()}


@pytest.fixture(scope="module")
def shelf(sd1_folder, tmp_path_factory) -> FolderResolver:
    folder = tmp_path_factory.mktemp("adapters")
    pipe = open_pipeline(sd1_folder, CPU)
    adapter_file(folder / "ink.safetensors", layers(pipe.unet))
    named = {n if n.startswith("text_model") else f"text_model.{n}": s for n, s in layers(pipe.text_encoder).items()}
    adapter_file(folder / "words: and more.safetensors", named, prefix="lora_te_")
    return FolderResolver([folder])


@pytest.fixture(scope="module")
def studio(sd1_folder, shelf) -> Generator:
    return Generator.open(sd1_folder, CPU, shelf)


def test_tags_change_the_picture_and_leave_no_trace(studio):
    before = state(studio.pipe)
    plain = studio.generate("a cat", QUICK)
    tagged = studio.generate("a cat <lyco:ink:0.8>", QUICK)
    assert np.abs(pixels(plain) - pixels(tagged)).max() > 8
    assert tagged.problems == ()
    (report,) = tagged.report.adapters
    assert (report.matched, report.unet, report.te) == (report.total, 0.8, 0.8)
    assert report.matched > 100
    again = studio.generate("a cat", QUICK)
    assert (pixels(plain) == pixels(again)).all()
    assert studio.session.verify()
    assert all(torch.equal(value, before[name]) for name, value in studio.pipe.unet.state_dict().items())


def test_a_picture_inside_inference_mode_is_the_same_before_and_after_any_other(sd1_folder, shelf):
    with Generator.open(sd1_folder, CPU, shelf) as studio:
        before, seen = state(studio.pipe), []
        for around in (torch.inference_mode, torch.no_grad, torch.inference_mode):
            with around():
                seen.append(pixels(studio.generate("a cat <lyco:ink:0@0,1@1>", QUICK)))
        assert all(np.abs(picture - seen[0]).max() <= 1 for picture in seen)
    assert all(torch.equal(value, before[name]) for name, value in studio.pipe.unet.state_dict().items())
    assert studio.session.verify()


def test_the_tag_is_not_part_of_the_text(studio):
    unchanged = studio.generate("a cat <lyco:ink:0>", QUICK)
    assert (pixels(unchanged) == pixels(studio.generate("a cat ", QUICK))).all()


def test_strengths_of_the_two_parts(studio):
    """An adapter of the text encoder alone: its own number counts, the UNet's does not."""
    name = '<lora:"words: and more":'
    plain, off, on = (studio.generate(f"a cat {tag}", QUICK) for tag in ("", f"{name}0:1>", f"{name}1:0>"))
    assert (pixels(plain) == pixels(off)).all()
    assert (pixels(plain) != pixels(on)).any()
    assert on.report.adapters[0].matched == 12 * 6


def test_what_is_wrong_with_one_tag_is_said_and_the_rest_works(studio):
    picture = studio.generate("a cat <lyco:nobody:1><lyco:ink:x><lyco:INK:0.5>", QUICK)
    bad, unknown, notice = picture.problems
    assert "'x' is not a finite number" in bad
    assert "no adapter is called 'nobody'" in unknown
    assert "'INK' was taken for 'ink'" in notice
    assert [report.unet for report in picture.report.adapters] == [0.5]


def test_progress_reaches_its_end(studio):
    seen: list[int] = []
    studio.generate("a cat", QUICK, seen.append)
    assert seen == [1, 2]


def test_leaving_the_studio_gives_the_model_back(sd1_folder, shelf):
    with Generator.open(sd1_folder, CPU, shelf) as studio:
        before = state(studio.pipe)
        studio.activate_prompt("<lyco:ink>")
        assert any(not torch.equal(value, before[name]) for name, value in state(studio.pipe).items())
    assert all(torch.equal(value, before[name]) for name, value in state(studio.pipe).items())


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_other_families(family, sdxl_folder, tmp_path):
    folder = sdxl_folder if family == "sdxl" else model_folder(tmp_path / "model", family)
    pipe = open_pipeline(folder, CPU)
    encoder, prefix = (pipe.text_encoder_2, "lora_te2_") if family == "sdxl" else (pipe.text_encoder, "lora_te_")
    adapter_file(tmp_path / "unet.safetensors", layers(pipe.unet))
    adapter_file(tmp_path / "words.safetensors", layers(encoder), prefix=prefix)
    studio = Generator.open(folder, CPU, FolderResolver([tmp_path]))
    plain = studio.generate("a cat", QUICK)
    for name in ("unet", "words"):
        drawn = studio.generate(f"a cat <lyco:{name}>", QUICK)
        (report,) = drawn.report.adapters
        assert (report.matched, report.error) == (report.total, None)
        assert (pixels(drawn) != pixels(plain)).any()
    assert (pixels(studio.generate("a cat", QUICK)) == pixels(plain)).all()
    assert studio.session.verify()


def test_only_half_precision_weights(sd1_folder, tmp_path):
    folder = tmp_path / "half"
    shutil.copytree(sd1_folder, folder)
    for name in ("unet", "text_encoder", "vae"):
        for file in (folder / name).glob("*.safetensors"):
            file.rename(file.with_suffix(".fp16.safetensors"))
    assert next(open_pipeline(folder, CPU).unet.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: shutil.rmtree(folder), "there is no such folder"),
        (lambda folder: (folder / "model_index.json").unlink(), "no model_index.json"),
        (lambda folder: (folder / "model_index.json").write_text("{"), "cannot be read"),
        (
            lambda folder: (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline"}'),
            "FluxPipeline is no",
        ),
        (lambda folder: shutil.rmtree(folder / "unet"), "'unet'"),
        (lambda folder: shutil.rmtree(folder / "text_encoder"), "text_encoder"),
        (lambda folder: (folder / "unet" / "config.json").write_text(json.dumps({"_class_name": "X"})), "cannot load"),
        (lambda folder: next((folder / "unet").glob("*.safetensors")).write_bytes(b"\0" * 99), "cannot load"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_sentence(sd1_folder, tmp_path, spoil, sentence):
    folder = tmp_path / "model"
    shutil.copytree(sd1_folder, folder)
    spoil(folder)
    with pytest.raises(InvalidModelFolder) as caught:
        open_pipeline(folder, CPU)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


class TestShelf:
    @pytest.fixture
    def folder(self, tmp_path):
        tensors = {"lin": (4, 4)}
        for name in ("style/ink", "char/ink", "char/Café", "a.b c"):
            path = tmp_path / f"{name}.safetensors"
            path.parent.mkdir(exist_ok=True)
            adapter_file(path, tensors)
        return tmp_path

    @pytest.mark.parametrize("name", ["a.b c", "a.b c.safetensors", "style/ink", "char\\ink", "char/Café"])
    def test_exact_names(self, folder, name):
        found = FolderResolver([folder]).adapter(name)
        assert found.notice is None
        assert found.adapter.path.as_posix().endswith(
            f"{name.removesuffix('.safetensors')}.safetensors".replace("\\", "/")
        )

    @pytest.mark.parametrize("name", ["A.B C", "cafe\u0301", " CAFÉ ", "Style/Ink"])
    def test_the_same_letters_in_another_form_come_with_a_notice(self, folder, name):
        assert "was taken for" in (FolderResolver([folder]).adapter(name).notice or "")

    def test_of_two_files_of_one_name_the_first_is_taken_and_the_choice_told(self, folder):
        found = FolderResolver([folder]).adapter("ink")
        assert found.adapter.path == (folder / "char" / "ink.safetensors").resolve()
        assert found.notice == (
            "2 files are named 'ink': using <lyco:char/ink:1>. To use another one, write <lyco:style/ink:1>."
        )
        other = FolderResolver([folder / "style", folder]).adapter("ink")
        assert other.adapter.path == (folder / "style" / "ink.safetensors").resolve()

    def test_a_broken_file_is_passed_over_for_a_sound_one_of_its_name(self, folder):
        (folder / "char" / "ink.safetensors").write_bytes(b"")
        found = FolderResolver([folder]).adapter("ink")
        assert found.adapter.path == (folder / "style" / "ink.safetensors").resolve()
        assert f"Skipped {folder / 'char' / 'ink.safetensors'}" in (found.notice or "")

    @pytest.mark.parametrize("name", ["a>b", "style #2", "a\nb"])
    def test_a_name_as_the_web_ui_carries_it_is_found_here_too(self, folder, name):
        (folder / "style" / "ink.safetensors").rename(folder / "style" / f"{name}.safetensors")
        assert FolderResolver([folder]).adapter(escape_name(name)).adapter.path.stem == name
        assert FolderResolver([folder]).adapter(name).adapter.path.stem == name

    @pytest.mark.parametrize("name", ["../ink", "/etc/passwd", "nk", "e/ink", ""])
    def test_names_are_looked_up_and_never_joined_to_a_path(self, folder, name):
        with pytest.raises(AdapterError, match="no adapter is called"):
            FolderResolver([folder]).adapter(name)
