"""The embedded model's tiny CLIP from end to end: pictures become an embedding, which leads others to them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cosine_similarity, normalize

from lib_adapters.app.main import main
from lib_adapters.conditioning.aesthetic_file import open_aesthetic
from lib_adapters.conditioning.clip_features import load_text_projection
from lib_adapters.demo import ADAPTERS, AESTHETICS, MODEL
from lib_adapters.demo.images import every_caption
from lib_adapters.demo.reference_images import REFERENCES, distance, images_of
from lib_adapters.demo.train_adapters import GUIDANCE, SHOWN_SEEDS, SHOWN_STEPS
from lib_adapters.demo.train_clip import draw_pool, end_states, measured
from lib_adapters.hosts.diffusers.clip_vision import load_image_encoder
from lib_adapters.hosts.diffusers.folder_resolver import FolderResolver
from lib_adapters.hosts.diffusers.generator import Generator, Settings

pytestmark = pytest.mark.filterwarnings("ignore")  # what other people's packages say about each other
CPU = torch.device("cpu")
CLIP = MODEL / "clip"
INDEX = json.loads((AESTHETICS / "README.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def studio():
    with Generator.open(MODEL, CPU, FolderResolver([AESTHETICS])) as opened:
        yield opened


def test_the_clip_is_small():
    assert sum(file.stat().st_size for file in CLIP.iterdir()) < 1_000_000


@pytest.mark.slow
def test_pictures_it_never_saw_find_their_captions():
    pool = draw_pool(60, seed=12345)
    with torch.no_grad():
        images = normalize(load_image_encoder(CLIP, CPU).model(pixel_values=pool.pixels).image_embeds, dim=-1)
        texts = normalize(end_states(MODEL) @ load_text_projection(CLIP).float().T, dim=-1)
    found = (images @ texts.T).argmax(dim=1)
    assert (found == pool.rows).float().mean() > 0.9
    words = [caption.split()[-2] for caption in every_caption()]
    assert all(words[a] == words[b] for a, b in zip(found.tolist(), pool.rows.tolist(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("known", REFERENCES, ids=lambda known: known.name)
def test_pictures_are_led_to_the_set_of_pictures(studio, known):
    entry = INDEX[known.name]
    without, there = measured(studio, known, ""), measured(studio, known, known.tag)
    assert there < without / 3
    assert abs(without - entry["without"]) < 0.02
    assert abs(there - entry["with"]) < 0.05
    assert abs(measured(studio, known, "") - without) == 0


@pytest.mark.parametrize("known", REFERENCES, ids=lambda known: known.name)
def test_another_embedding_does_not_lead_there(studio, known):
    (other,) = (one for one in REFERENCES if one is not known)
    assert measured(studio, known, other.tag) > 3 * measured(studio, known, known.tag)


def test_from_a_folder_of_pictures_to_a_led_picture(tmp_path, capsys):
    known = REFERENCES[0]
    (tmp_path / "set").mkdir()
    for number, picture in enumerate(images_of(known)):
        picture.save(tmp_path / "set" / f"{number}.png")
    out = tmp_path / "mine.safetensors"
    assert main(["aesthetic", "create", str(tmp_path / "set"), "--clip", str(CLIP), "--out", str(out)]) == 0
    mine, theirs = (open_aesthetic(file).vectors.float() for file in (out, AESTHETICS / f"{known.name}.pt"))
    assert cosine_similarity(mine, theirs) > 0.999
    prompt = f"{known.shown} <aesthetic:mine:{known.strength}>"
    more = ["--adapters", str(tmp_path), "--out", str(tmp_path / "x.png"), "--steps", str(SHOWN_STEPS)]
    assert main(["generate", prompt, "--guidance", str(GUIDANCE), "--seed", str(SHOWN_SEEDS[0]), *more]) == 0
    assert "mine (aesthetic gradient): 10 steps, weight 0.9, cosine" in capsys.readouterr().out
    picture = np.asarray(Image.open(tmp_path / "x.png"), np.float32) / 255
    assert distance(picture, known) < 0.2


def test_an_adapter_and_an_embedding_in_one_prompt():
    known, quick = REFERENCES[0], Settings(steps=4, seed=1, guidance=GUIDANCE)
    with Generator.open(MODEL, CPU, FolderResolver([ADAPTERS, AESTHETICS])) as both:
        plain = np.asarray(both.generate(known.shown, quick).image)
        tags = f"<lyco:rainbow_rslora:1> {known.tag} <hypernet:dusk_hypernet:0.5>"
        picture = both.generate(f"{known.shown} {tags}", quick)
        assert picture.problems == ()
        assert [one.error for one in picture.report.adapters] == [None] * 3
        assert (np.asarray(both.generate(known.shown, quick).image) == plain).all()
        both.activate_prompt("")
        assert both.session.verify()
