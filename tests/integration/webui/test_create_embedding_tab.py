"""The web UI's tab "Aesthetic embedding" in the double, with the bundled CLIP."""

from __future__ import annotations

import sys

import pytest
import torch
from PIL import Image

from lib_adapters.app import arguments
from lib_adapters.conditioning.aesthetic_file import open_aesthetic
from lib_adapters.hosts.diffusers import create_embedding
from lib_adapters.hosts.diffusers.clip_projection import find_clip_folder
from lib_adapters.hosts.diffusers.clip_vision import ClipImageEncoder

pytestmark = pytest.mark.filterwarnings("ignore")  # what other people's packages say about each other
CLIP = str(find_clip_folder(arguments.MODEL))
COUNT = 5


class Component:
    """Remembers what a press of it calls."""

    made: dict[str, Component]

    def __init__(self, *given, **named):
        self.made[named.get("elem_id", "")] = self
        self.named = named

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def click(self, call, inputs, outputs, **_):
        self.press, self.outputs = call, outputs
        return self

    def then(self, *_, **__):
        pass


@pytest.fixture
def tab(webui, monkeypatch, tmp_path):
    """The tab's components by their ids."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "nothing"))
    made = type("Recorded", (Component,), {"made": {}})
    for name in ("Blocks", "Row", "Column", "Textbox", "Slider", "Button", "HTML"):
        setattr(sys.modules["gradio"], name, made)
    (listener,) = webui._callbacks["ui_tabs"]
    ((_, title, elem_id),) = listener()
    assert (title, elem_id) == ("Aesthetic embedding", "lycoris_create")
    return {name.removeprefix("lycoris_create_"): one for name, one in made.made.items()}


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n in range(COUNT):
        Image.new("RGB", (40 + n, 50), (40 * n, 80, 120)).save(folder / f"{n}.png")
    (folder / "<b>.png").write_bytes(b"rubbish")
    return str(folder)


def press(tab, *values):
    (said,) = tab["button"].press("task(1)", *values)
    assert tab["button"].outputs == [tab["result"]]
    return said


def made(webui):
    folder = webui.folder / "aesthetic_embeddings"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_file_is_made_and_its_tag_is_known(webui, tab, pictures, monkeypatch):
    started = []
    monkeypatch.setattr("lib_adapters.library.AdapterLibrary.start", lambda catalogue: started.append(catalogue))
    said = press(tab, "mine", pictures, CLIP, 2)
    assert "5 pictures, " in said
    assert "&lt;aesthetic:mine&gt;" in said
    assert "left out: &lt;b&gt;.png (" in said
    assert made(webui) == ["mine.pt"]
    assert len(started) == 1
    state = webui.shared.state
    assert (state.job_count, state.job_no, state.textinfo) == (6, 6, None)
    job = webui.picture("5 <aesthetic:mine>")
    assert not any("no aesthetic embedding is called" in line for line in job.comments)
    assert "exists already" in press(tab, "mine.pt", pictures, CLIP, 2)
    assert len(started) == 1


def test_interrupt_leaves_nothing(webui, tab, pictures, monkeypatch):
    looked = []

    def features(vision, some):
        looked.append(webui.shared.state.textinfo)
        tab["interrupt"].press()
        return torch.ones(len(some), 12)

    monkeypatch.setattr(ClipImageEncoder, "image_features", features)
    assert press(tab, "mine", pictures, CLIP, 2) == "<p>Stopped; nothing was written.</p>"
    assert looked == ["0 of 6 pictures"]
    assert made(webui) == []
    assert webui.shared.state.textinfo is None


def test_the_usual_clip_folder_is_taken_only_with_its_image_side(webui, tab, pictures):
    missing = "config.json of openai/clip-vit-large-patch14 (on Hugging Face) into"
    assert missing in press(tab, "mine", pictures, "", 16)
    (webui.folder / "CLIP").mkdir()
    (webui.folder / "CLIP" / "text").mkdir()
    (webui.folder / "CLIP" / "text" / "config.json").write_text('{"model_type": "clip_text_model"}', encoding="utf-8")
    (webui.folder / "CLIP" / "text" / "model.safetensors").touch()
    (webui.folder / "CLIP" / "settings").mkdir()
    (webui.folder / "CLIP" / "settings" / "config.json").write_text('{"vision_config": {}}', encoding="utf-8")
    assert missing in press(tab, "mine", pictures, "", 16)
    (webui.folder / "CLIP" / "whole").symlink_to(CLIP)
    assert "5 pictures" in press(tab, "mine", pictures, "", 16)


def test_the_clip_folder_of_the_settings(webui, tab, pictures, tmp_path):
    webui.shared.opts.lycoris_clip_folder = str(tmp_path)
    said = press(tab, "mine", pictures, "", 16)
    assert "there is no CLIP model with its image side in this folder" in said
    webui.shared.opts.lycoris_clip_folder = CLIP
    assert "5 pictures" in press(tab, "mine", pictures, "", 16)
    assert open_aesthetic(webui.folder / "aesthetic_embeddings" / "mine.pt").vectors.ndim == 2


@pytest.mark.parametrize("name", ["", "../up", "a/b", "C:\\x", "<script>"])
def test_a_name_is_no_path(webui, tab, pictures, name):
    said = press(tab, name, pictures, CLIP, 16)
    assert "cannot be a file&#x27;s name" in said
    assert "<script>" not in said
    assert made(webui) == []


def test_what_fails_is_one_sentence(webui, tab, pictures, monkeypatch, tmp_path):
    assert "Name the folder of pictures." in press(tab, "mine", "", CLIP, 16)
    assert "no such folder of pictures" in press(tab, "mine", str(tmp_path / "gone"), CLIP, 16)

    def full(*_):
        raise OSError(28, "No space left on device", "x.pt")

    with monkeypatch.context() as patch:
        patch.setattr(create_embedding, "save_aesthetic", full)
        assert press(tab, "mine", pictures, CLIP, 16) == "<p>x.pt: No space left on device.</p>"

    def small(*_):
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr(ClipImageEncoder, "image_features", small)
    assert "not enough GPU memory" in press(tab, "mine", pictures, CLIP, 16)
    assert made(webui) == []
