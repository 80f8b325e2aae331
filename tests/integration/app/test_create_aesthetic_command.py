"""`aesthetic create`, and what the other commands say of aesthetic embeddings."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lib_adapters.app.main import main
from lib_adapters.conditioning.aesthetic_file import open_aesthetic, save_aesthetic
from lib_adapters.conditioning.clip_features import load_text_projection
from lib_adapters.hosts.diffusers import create_embedding
from tests.support.tiny_models import clip

pytestmark = pytest.mark.filterwarnings("ignore")  # what other people's packages say about each other
SIZES = ((48, 48), (100, 40), (33, 90), (31, 31), (64, 200))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny CLIP model as transformers saves it, with its image processor's settings."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"vocab_size": 99, "bos_token_id": 97, "eos_token_id": 98, "pad_token_id": 98}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    CLIPModel(
        CLIPConfig(text_config={**sizes, **ids}, vision_config=vision, projection_dim=12)
    ).eval().save_pretrained(folder)  # fmt: skip
    processor = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return folder


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "pictures" / "more").mkdir(parents=True)
    rng = np.random.default_rng(1)
    for n, (width, height) in enumerate(SIZES):
        where = tmp_path / "pictures" / ("more" if n % 2 else "") / f"{n}.png"
        Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).save(where)
    return tmp_path / "pictures"


def create(pictures, folder, out, *more):
    return main(["aesthetic", "create", str(pictures), "--clip", str(folder), "--out", str(out), *more])


def first_generator(folder, pictures):
    """The mean over the pictures of `get_image_features`, as the web UI's extension made such files."""
    from transformers import CLIPModel

    try:  # since version 5 the other one wants torchvision
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil as Processor
    except ImportError:
        from transformers import CLIPImageProcessor as Processor
    prepare, model = Processor.from_pretrained(str(folder)), CLIPModel.from_pretrained(str(folder))
    files = [Image.open(file).convert("RGB") for file in sorted(pictures.rglob("*.png"))]
    pixels = [prepare(images=[one], return_tensors="np")["pixel_values"][0] for one in files]
    with torch.no_grad():
        found = model.get_image_features(pixel_values=torch.from_numpy(np.stack(pixels)))
    return (found if isinstance(found, torch.Tensor) else found.pooler_output).mean(dim=0, keepdim=True)


@pytest.mark.parametrize("name", ["x.pt", "sub/x.safetensors"])
def test_the_vector_is_what_the_first_generator_made(folder, pictures, tmp_path, name, capsys):
    assert create(pictures, folder, tmp_path / name, "--batch", "2") == 0
    found = open_aesthetic(tmp_path / name).vectors
    torch.testing.assert_close(found, first_generator(folder, pictures), rtol=1e-4, atol=1e-4)
    assert found.dtype == torch.float32
    assert "5 pictures, 12 wide; write <aesthetic:x>" in capsys.readouterr().out


def test_the_same_folder_serves_the_text_side(folder):
    assert load_text_projection(folder).shape == (12, 16)


def test_a_picture_alone_and_in_a_batch_is_the_same(folder, pictures, tmp_path):
    for name, batch in (("a.pt", "1"), ("b.pt", "16")):
        assert create(pictures, folder, tmp_path / name, "--batch", batch) == 0
    one, other = (open_aesthetic(tmp_path / name).vectors for name in ("a.pt", "b.pt"))
    torch.testing.assert_close(one, other)


def test_bad_pictures_are_left_out_by_name(folder, pictures, tmp_path, capsys):
    (pictures / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"rubbish")
    (pictures / "half.jpg").write_bytes((pictures / "0.png").read_bytes()[:200])
    (pictures / "notes.txt").write_text("no picture", encoding="utf-8")
    assert create(pictures, folder, tmp_path / "x.pt") == 0
    told = capsys.readouterr()
    assert [line.split(" (")[0] for line in told.err.splitlines() if "left out" in line] == [
        "left out: broken.png",
        "left out: half.jpg",
    ]
    assert "5 pictures" in told.out


def test_what_is_missing_is_said_before_anything_is_made(folder, pictures, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    clip(layers=2, projection=True).save_pretrained(tmp_path / "text")
    (tmp_path / "there.pt").touch()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"x")
    cases = (
        ((tmp_path / "gone", folder, "x.pt"), "there is no such folder of pictures"),
        ((tmp_path / "empty", folder, "x.pt"), "there are no pictures in this folder"),
        ((tmp_path / "bad", folder, "x.pt"), "none of the 1 pictures could be read"),
        ((pictures, tmp_path / "gone", "x.pt"), "there is no CLIP model with its image side in this folder"),
        ((pictures, tmp_path / "text", "x.pt"), "text: "),
        ((pictures, folder, "x.zip"), "ends in .safetensors or .pt"),
        ((pictures, folder, "there.pt"), "exists already"),
    )
    for (where, model, name), sentence in cases:
        assert create(where, model, tmp_path / name) == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "x.pt").exists()


def test_a_stop_leaves_nothing(folder, pictures, tmp_path, monkeypatch):
    looked = []

    def stop(vision, some):
        looked.append(len(some))
        if len(looked) == 2:
            raise KeyboardInterrupt
        return torch.ones(len(some), 12)

    monkeypatch.setattr("lib_adapters.hosts.diffusers.clip_vision.ClipImageEncoder.image_features", stop)
    assert create(pictures, folder, tmp_path / "x.pt", "--batch", "2") == 130
    assert looked == [2, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_pictures_with_transparency_and_turned_ones(folder, tmp_path):
    picture = Image.new("RGBA", (40, 60), (255, 0, 0, 128))
    picture.save(tmp_path / "a.png")
    turned = Image.new("RGB", (40, 60), (0, 255, 0))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "b.jpg", exif=exif)
    asked = create_embedding.EmbeddingJob.prepare(tmp_path, folder, tmp_path / "x.pt", 2, torch.device("cpu"))
    features, bad = create_embedding.compute_features(asked, lambda *_: None, lambda: False)
    assert (tuple(features.shape), bad) == ((2, 12), [])
    assert next(create_embedding.open_images([tmp_path / "b.jpg"], bad)).size == (60, 40)


def test_list_inspect_and_convert_know_them(tmp_path, capsys):
    save_aesthetic(torch.ones(2, 768).half(), tmp_path / "ink.pt")
    there, back = tmp_path / "x.safetensors", tmp_path / "y.pt"
    assert main(["convert", str(tmp_path / "ink.pt"), str(there)]) == 0
    assert main(["convert", str(there), str(back)]) == 0
    assert torch.equal(open_aesthetic(back).vectors, torch.ones(2, 768).half())
    assert main(["convert", str(there), str(tmp_path / "z.pt"), "--dtype", "fp32"]) == 2
    assert main(["convert", str(there), str(back)]) == 2
    capsys.readouterr()
    assert main(["list", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("ink.pt         sd1      Aesthetic embedding 768 2 ")
    assert main(["inspect", str(there)]) == 0
    told = capsys.readouterr().out
    assert "kind       aesthetic embedding, 2 x 768, float16" in told
    assert "write      <aesthetic:x>" in told
    assert main(["inspect", str(there), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["width"] == 768
