"""`convert` keeps the strength of every layer: each spelling, place and container, read by us, diffusers and PEFT."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lib_adapters import open_adapter
from lib_adapters.algorithms.shira import Shira
from lib_adapters.app import main as app
from lib_adapters.app.equivalence import are_equivalent
from lib_adapters.hosts.diffusers.meta_models import MetaModel
from tests.support import trainer_oracles
from tests.support.tiny_models import clip, diffusers_unet

pytestmark = pytest.mark.filterwarnings("ignore")
WIDTH = 32
BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
CONV = "mid_block.resnets.0.conv1"
UNET = {f"{BLOCK}.attn1.to_q": 4, f"{BLOCK}.attn2.to_k": 2, f"{BLOCK}.attn1.to_out.0": 2, CONV: 2}  # layer: rank
TEXT = {f"text_model.encoder.layers.1.self_attn.{name}": 2 for name in ("q_proj", "out_proj")}
ALPHA = 6.0
Deltas = dict[str, Tensor]


class Case(NamedTuple):
    """How a source is written."""

    prefix: str
    halves: tuple[str, str] = ("lora_A", "lora_B")
    alpha: bool = False  # in the file
    packed: bool = False  # config in the metadata
    beside: bool = False  # config in the folder
    text: bool = True
    name: str = "source.safetensors"
    others: bool = (
        False  # one alpha differs: diffusers loses it where it is in the tensors (benchmarks/peer_differences.py)
    )


SOURCES = {
    "kohya": Case("kohya", ("lora_down", "lora_up"), alpha=True),
    "kohya-pickle": Case("kohya", ("lora_down", "lora_up"), alpha=True, name="source.pt"),
    "diffusers-config": Case("{}.", packed=True),
    "diffusers-alphas": Case("{}.", packed=True, others=True),
    "peft-alphas": Case("base_model.model.", beside=True, text=False, name="adapter_model.safetensors", others=True),
    "peft": Case("base_model.model.", beside=True, text=False, name="adapter_model.safetensors"),
    "peft-pickle": Case("base_model.model.", beside=True, text=False, name="adapter_model.bin"),
    "peft-renamed": Case("base_model.model.", beside=True, text=False),
    "peft-config-in-the-file": Case("base_model.model.", packed=True, text=False),
}
PLACES = ("out.safetensors", "other/out.safetensors", "other/adapter_model.safetensors")


@pytest.fixture(scope="module", autouse=True)
def one_skeleton():
    """Building the module tree of SD1 takes longer than all the rest of a conversion."""
    with patch.object(MetaModel, "for_family", cache(MetaModel.for_family)):
        yield


@pytest.fixture(scope="module")
def pipe():
    diffusers = pytest.importorskip("diffusers", reason="oracle: diffusers is not installed")
    unet, encoder = diffusers_unet(context=WIDTH), clip(width=WIDTH, layers=2)
    parts = dict.fromkeys(("vae", "tokenizer", "scheduler", "safety_checker", "feature_extractor"))
    return diffusers.StableDiffusionPipeline(unet=unet, text_encoder=encoder, requires_safety_checker=False, **parts)


def module_of(root: nn.Module, path: str) -> nn.Module:
    """transformers 5 dropped the level `text_model`; files have it."""
    modules = dict(root.named_modules())
    return modules.get(path) or modules[path.removeprefix("text_model.")]


def written(case: Case, pipe, folder: Path) -> tuple[Path, Deltas]:
    """The source, and the change of each layer: path -> ΔW."""
    torch.manual_seed(0)
    tensors, deltas, configs = {}, {}, {}
    other = {f"{BLOCK}.attn1.to_out.0": 1.0} if case.others else {}
    for component, ranks in {"unet": UNET, "text_encoder": TEXT if case.text else {}}.items():
        for path, rank in ranks.items():
            weight = module_of(getattr(pipe, component), path).weight
            down, up = torch.randn(rank, *weight.shape[1:]), torch.randn(len(weight), rank)
            deltas[path] = (other.get(path, ALPHA) / rank * up @ down.flatten(1)).view(weight.shape)
            flat = f"lora_{'te' if component == 'text_encoder' else 'unet'}_{path.replace('.', '_')}"
            name = flat if case.prefix == "kohya" else case.prefix.format(component) + path
            up = up.view(*up.shape, *(1 for _ in weight.shape[2:]))
            tensors |= {f"{name}.{half}.weight": part for half, part in zip(case.halves, (down, up), strict=True)}
            if case.alpha:
                tensors[f"{name}.alpha"] = torch.tensor(ALPHA)
        configs[component] = {
            "peft_type": "LORA", "r": 2, "lora_alpha": ALPHA, "alpha_pattern": other,
            "target_modules": [path.removeprefix("text_model.") for path in ranks],
            "rank_pattern": {path: rank for path, rank in ranks.items() if rank != 2},
        }  # fmt: skip
    if case.beside:
        (folder / "adapter_config.json").write_text(json.dumps(configs["unet"]))
    table = {f"{part}.{key}": value for part, config in configs.items() for key, value in config.items()}
    metadata = {"lora_adapter_metadata": json.dumps(table if case.text else configs["unet"])} if case.packed else None
    path = folder / case.name
    save_file(tensors, path, metadata) if path.suffix == ".safetensors" else torch.save(tensors, path)
    return path, deltas


def assert_close(found: Deltas, expected: Deltas) -> None:
    assert found.keys() == expected.keys()
    for path, delta in expected.items():
        torch.testing.assert_close(found[path], delta, rtol=1e-4, atol=1e-4)


def ours(file: Path, pipe) -> Deltas:
    names = {path.replace(".", "_"): path for path in (*UNET, *TEXT)}
    roots = {"unet": pipe.unet, "te": pipe.text_encoder}
    algorithms = {stem: one for stem, one in open_adapter(file).load().algorithms.items()}
    return {names[stem.name]: one.delta(torch.zeros_like(module_of(roots[stem.component], names[stem.name]).weight))
            for stem, one in algorithms.items()}  # fmt: skip


def lora_layers(root: nn.Module) -> Deltas:
    """What PEFT's layers add."""
    found = {}
    for path, module in root.named_modules():
        if hasattr(module, "get_delta_weight"):
            path = path.removeprefix("base_model.model.")
            path = path if path in UNET or path in TEXT else f"text_model.{path}"
            (adapter,) = module.active_adapters
            found[path] = module.get_delta_weight(adapter).detach()
    return found


def diffusers(file: Path, pipe) -> Deltas:
    pipe.load_lora_weights(str(file.parent), weight_name=file.name)
    found = {**lora_layers(pipe.unet), **lora_layers(pipe.text_encoder)}
    pipe.unload_lora_weights()
    return found


def pefts(file: Path, pipe) -> Deltas:
    return lora_layers(trainer_oracles.peft().PeftModel.from_pretrained(copy.deepcopy(pipe.unet), str(file.parent)))


def converted(*arguments: object) -> None:
    assert app.main(["convert", *map(str, arguments)]) == 0


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("to", ["", "kohya", "diffusers", "peft"])
@pytest.mark.parametrize("name", SOURCES)
def test_every_path_keeps_the_strength(pipe, name, to, place, tmp_path):
    case = SOURCES[name]
    file, expected = written(case, pipe, tmp_path)
    assert_close(ours(file, pipe), expected)
    out = tmp_path / place
    converted(file, out, *(["--to", to] if to else []))
    assert_close(ours(out, pipe), expected)
    kohya = to == "kohya" or (not to and case.prefix == "kohya")
    if to == "diffusers" or (kohya and not case.others) or (not to and case.prefix == "{}."):
        if place == PLACES[0]:  # the others are the same bytes
            assert_close(diffusers(out, pipe), expected)
    elif out.name == "adapter_model.safetensors" and not kohya and not case.text:
        assert_close(pefts(out, pipe), expected)


def test_a_file_does_not_go_where_peft_would_apply_another_config_to_it(pipe, tmp_path, capsys):
    file, _ = written(SOURCES["peft-pickle"], pipe, tmp_path)
    out = tmp_path / "adapter_model.safetensors"
    assert app.main(["convert", str(file), str(out), "--to", "peft"]) == 2
    assert "PEFT would apply this config" in capsys.readouterr().err
    assert not out.exists()
    converted(file, out)  # unscaled, as the config there says
    assert_close(pefts(out, pipe), ours(file, pipe))


LAYER = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
DORA = {"lora_A.weight": (2, 32), "lora_B.weight": (32, 2), "lora_magnitude_vector": (32,)}
CONV_DORA = {"lora_A.weight": (2, 64, 3, 3), "lora_B.weight": (64, 2, 1, 1), "lora_magnitude_vector": (1, 64, 1, 1)}


@pytest.mark.parametrize(
    ("path", "shapes"), [(f"{BLOCK}.attn1.to_q", DORA), ("down_blocks.1.resnets.1.conv1", CONV_DORA)]
)
def test_dora_of_peft_stays_by_rows_under_kohyas_names(path, shapes, tmp_path):
    torch.manual_seed(0)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "use_dora": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    tensors = {f"base_model.model.{path}.{leaf}": torch.rand(shape) for leaf, shape in shapes.items()}
    tensors[f"base_model.model.{BLOCK}.attn2.to_k.lora_A.weight"] = torch.rand(2, 32)
    tensors[f"base_model.model.{BLOCK}.attn2.to_k.lora_B.weight"] = torch.rand(32, 2)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    converted(tmp_path / "adapter_model.safetensors", tmp_path / "out.safetensors", "--to", "kohya")
    base = torch.randn(shapes["lora_B.weight"][0], *shapes["lora_A.weight"][1:])
    before, after = (
        next(one for stem, one in open_adapter(file).load().algorithms.items() if stem.name == path.replace(".", "_"))
        for file in (tmp_path / "adapter_model.safetensors", tmp_path / "out.safetensors")
    )
    torch.testing.assert_close(after.delta(base), before.delta(base))


def test_what_only_a_config_can_say_is_not_lost_under_new_names(tmp_path, capsys):
    config = {"peft_type": "OFT", "use_cayley_neumann": False, "peft_version": "0.18.1"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    file = tmp_path / "adapter_model.safetensors"
    save_file({f"base_model.model.{BLOCK}.attn1.to_q.oft_R.weight": torch.rand(8, 6)}, file)
    out = tmp_path / "other" / "out.safetensors"
    assert app.main(["convert", str(file), str(out), "--to", "kohya"]) == 2
    assert "would act differently" in capsys.readouterr().err
    assert not out.exists()
    converted(file, out)
    (before,), (after,) = (open_adapter(path).load().algorithms.values() for path in (file, out))
    assert before.exact
    assert torch.equal(before.delta(torch.eye(32)), after.delta(torch.eye(32)))


@pytest.mark.parametrize(("size", "dtype"), [(1e-9, "fp16"), (1e-6, "fp16"), (1e6, "fp16"), (1e-45, "bf16")])
def test_a_tensor_that_a_dtype_cannot_hold_stays_and_is_reported(size, dtype, tmp_path, capsys):
    torch.manual_seed(0)
    up, down = torch.full((32, 2), size), torch.randn(2, 32)
    down[0, 0] = 1e-9  # rounds to zero, and the tensor as a whole does not feel it
    tensors = {f"lora_unet_{LAYER}.lora_up.weight": up, f"lora_unet_{LAYER}.lora_down.weight": down}
    save_file({**tensors, f"lora_unet_{LAYER}.alpha": torch.tensor(2.0)}, tmp_path / "in.safetensors")
    converted(tmp_path / "in.safetensors", tmp_path / "out.safetensors", "--dtype", dtype)
    out = load_file(tmp_path / "out.safetensors")
    assert torch.equal(out[f"lora_unet_{LAYER}.lora_up.weight"], up)
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    assert torch.equal(out[f"lora_unet_{LAYER}.lora_down.weight"], down.to(half))
    assert f"{dtype} cannot represent their values: 1 tensors, lora_unet_{LAYER}." in capsys.readouterr().out


def test_metadata_stays_except_what_would_scale_twice(pipe, tmp_path):
    file, _ = written(SOURCES["diffusers-config"], pipe, tmp_path)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    save_file(load_file(file), file, {**metadata, "ss_note": "kept"})
    converted(file, tmp_path / "out.safetensors", "--to", "kohya")
    with safe_open(tmp_path / "out.safetensors", "pt") as opened:
        assert opened.metadata() == {"ss_note": "kept"}


@pytest.mark.parametrize("arguments", [("--dtype", "fp16"), ("--dtype", "bf16", "--to", "kohya")])
def test_positions_stay_exact_in_every_dtype(arguments, tmp_path):
    name = f"base_model.model.{BLOCK}.ff.net.0.proj"
    places = torch.stack((torch.arange(2050, 2066), torch.arange(16))).float()  # PEFT on Windows stores floats
    tensors = {f"{name}.shira_weight": torch.rand(16), f"{name}.shira_indices": places}
    save_file(tensors, tmp_path / "in.safetensors")
    converted(tmp_path / "in.safetensors", tmp_path / "out.safetensors", *arguments)
    (algorithm,) = open_adapter(tmp_path / "out.safetensors").load().algorithms.values()
    assert torch.equal(algorithm.places, places.long())
    assert algorithm.values.dtype in (torch.float16, torch.bfloat16)


def test_another_place_is_another_adapter():
    one, other = (Shira(torch.ones(2).half(), torch.tensor([[0, place], [1, 2]]), (3, 3)) for place in (2049, 2048))
    assert are_equivalent(one, one)
    assert not are_equivalent(one, other)


@pytest.mark.parametrize("to", ["kohya", "diffusers", "peft"])
def test_of_two_names_of_a_layer_the_one_that_a_model_takes_is_converted(to, tmp_path, capsys):
    names = [f"lora_unet_{LAYER}", f"lora_unet_{LAYER.replace('down_blocks_0_attentions_0', 'input_blocks_1_1')}"]
    shapes = {"lora_down.weight": (2, WIDTH), "lora_up.weight": (WIDTH, 2)}
    save_file(
        {f"{name}.{leaf}": torch.rand(shape) for name in names for leaf, shape in shapes.items()},
        tmp_path / "in.safetensors",
    )
    converted(tmp_path / "in.safetensors", tmp_path / "out.safetensors", "--to", to)
    assert f"left out: {names[1]} (names the same layer as {names[0]}" in capsys.readouterr().out
    base = torch.zeros(WIDTH, WIDTH)
    both, one = (open_adapter(tmp_path / f"{name}.safetensors").load().algorithms for name in ("in", "out"))
    (first,) = (algorithm for stem, algorithm in both.items() if stem.name == LAYER)
    (new,) = one.values()
    torch.testing.assert_close(new.delta(base), first.delta(base))
