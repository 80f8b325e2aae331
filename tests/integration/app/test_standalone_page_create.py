"""The page's "Create aesthetic embedding", with the bundled model's own CLIP and pictures drawn for it."""

from __future__ import annotations

import random
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("gradio")
from fastapi.testclient import TestClient

from lib_adapters.app import arguments, main
from lib_adapters.app.page import application, create_panel
from lib_adapters.conditioning.aesthetic_file import open_aesthetic
from lib_adapters.demo.images import draw, random_scene
from lib_adapters.errors import AdapterError
from lib_adapters.hosts.diffusers import create_embedding
from lib_adapters.hosts.diffusers.clip_projection import find_clip_folder
from lib_adapters.hosts.diffusers.clip_vision import load_image_encoder

pytestmark = pytest.mark.filterwarnings("ignore")  # what other people's packages say about each other
CPU = torch.device("cpu")
COUNT = 5


def nothing(done, total):
    pass


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Five that can be read, and one that cannot."""
    folder, rng = tmp_path_factory.mktemp("pictures"), random.Random(3)
    for n in range(COUNT):
        pixels = (np.asarray(draw(random_scene(rng))) * 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{n}.png")
    (folder / "<b>.png").write_bytes(b"rubbish")
    return folder


@pytest.fixture
def maker(tmp_path):
    told: list[str] = []
    made = create_panel.EmbeddingWorker(
        find_clip_folder(arguments.MODEL), tmp_path / "out" / "made", CPU, lambda: told.append("made")
    )
    made.told = told
    return made


def test_the_file_is_the_mean_of_the_features(maker, pictures, tmp_path):
    seen: list[tuple[int, int]] = []
    made = maker.create("mine", str(pictures), str(maker.clip), 2, lambda *at: seen.append(at))
    vision = load_image_encoder(maker.clip, CPU)
    features = vision.image_features([Image.open(pictures / f"{n}.png") for n in range(COUNT)])
    torch.testing.assert_close(open_aesthetic(made.out).vectors, features.mean(dim=0, keepdim=True))
    assert made.out == tmp_path / "out" / "made" / "mine.pt"
    assert seen == [(0, 6), (2, 6), (4, 6), (6, 6)]
    assert [name for name, _ in made.skipped] == ["<b>.png"]
    assert maker.told == ["made"]
    with pytest.raises(AdapterError, match="exists already"):
        maker.create("mine", str(pictures), str(maker.clip), 2, nothing)
    assert list(made.out.parent.iterdir()) == [made.out]


def test_stop_leaves_nothing_and_the_next_one_runs(maker, pictures, tmp_path):
    def press(done, total):
        if done:
            maker.stop()

    with pytest.raises(create_embedding.Cancelled):
        maker.create("mine", str(pictures), str(maker.clip), 2, press)
    assert not (tmp_path / "out").exists()
    assert maker.told == []
    assert maker.create("mine", str(pictures), str(maker.clip), 16, nothing).image_count == COUNT


def test_stop_after_the_last_batch_counts_too(maker, pictures, tmp_path):
    with pytest.raises(create_embedding.Cancelled):
        maker.create("mine", str(pictures), str(maker.clip), 16, lambda done, total: done == total and maker.stop())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["", " ", ".pt", "..", "../up", "a/b", "a\\b", "C:x", "a\0b", "a.", ".a", "CON", "nul.x", "<x>", "ü" * 101]
)
def test_what_is_no_name_is_refused(name, tmp_path):
    with pytest.raises(AdapterError, match="cannot be a file's name"):
        create_embedding.embedding_path(name, tmp_path)


def test_a_name_with_or_without_its_ending(tmp_path):
    assert create_embedding.embedding_path(" v1.5 sky.pt ", tmp_path) == tmp_path / "v1.5 sky.pt"
    assert create_embedding.embedding_path("v1.5 sky", tmp_path) == tmp_path / "v1.5 sky.pt"
    (tmp_path / "sky.safetensors").touch()
    with pytest.raises(AdapterError, match=r"sky\.safetensors: this exists already"):
        create_embedding.embedding_path("sky", tmp_path)


def test_what_is_missing_is_one_sentence_on_the_page(maker, pictures, tmp_path):
    press = create_panel._pressed(maker)
    assert "Name the folder of pictures." in press("x", " ", str(maker.clip), 2, nothing)
    assert "Name the folder of a local CLIP model" in press("x", str(pictures), "", 2, nothing)
    assert "no CLIP model with its image side" in press("x", str(pictures), str(tmp_path), 2, nothing)
    assert not (tmp_path / "out").exists()


def test_a_press_of_the_button(maker, pictures):
    seen = []

    def progress(share, desc):
        seen.append((share, desc))

    said = create_panel._pressed(maker)("mine", f'"{pictures}"', str(maker.clip), 16, progress)
    assert "5 pictures, " in said
    assert "&lt;aesthetic:mine&gt;" in said
    assert "left out: &lt;b&gt;.png (" in said
    assert seen == [(0, "0 of 6 pictures"), (1, "6 of 6 pictures")]


def test_the_new_card_appears_and_the_tag_works(pictures, tmp_path, monkeypatch):
    makers, painters = [], []
    monkeypatch.setattr(
        application, "EmbeddingWorker", lambda *given: makers.append(create_panel.EmbeddingWorker(*given)) or makers[0]
    )
    usual = application.ImageWorker
    monkeypatch.setattr(application, "ImageWorker", lambda *given: painters.append(usual(*given)) or painters[0])
    given = main.parser().parse_args(["page", "--no-browser", "--out", str(tmp_path), "--device", "cpu"])
    with ExitStack() as stack:
        client = TestClient(application.application(given, stack, "http://127.0.0.1:1/"))
        assert '"elem_id":"page_create_clip"' in client.get("/").text.replace(" ", "")
        makers[0].create("mine", str(pictures), str(makers[0].clip), 16, nothing)
        for _ in range(500):
            answer = client.get("/lycoris/api/cards").json()
            if not answer["progress"]["running"]:
                break
        (card,) = [card for card in answer["cards"] if card["name"] == "mine"]
        assert answer["folders"][card["root"]] == "Created here"
        shown = painters[0].generate("a red circle <aesthetic:mine>", application.read_settings(given), False, nothing)
    assert shown.problems == []
    assert "mine (aesthetic gradient): " in shown.lines[0]
