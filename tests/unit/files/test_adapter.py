"""What an opened adapter says about itself, what loading it gives, and what only a config beside it knows."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_adapters.algorithms.base import LayerGroup, TrainingInfo
from lib_adapters.errors import AdapterError
from lib_adapters.files.adapter import open_adapter
from lib_adapters.files.cache import AdapterCache
from lib_adapters.files.loading import decode_scalar

NAME = "lora_unet_mid_block_attentions_0_proj_in"


def pair(name: str = NAME, rank: int = 2, alpha: object = 1.0, dtype=torch.float32) -> dict[str, torch.Tensor]:
    torch.manual_seed(len(name))
    found = {f"{name}.lora_down.weight": torch.randn(rank, 8), f"{name}.lora_up.weight": torch.randn(8, rank)}
    found = {key: tensor.to(dtype) for key, tensor in found.items()}
    return found if alpha is None else found | {f"{name}.alpha": torch.as_tensor(alpha)}


def saved(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None):
    save_file(tensors, path, metadata)
    return open_adapter(path)


def delta(adapter) -> torch.Tensor:
    (algorithm,) = adapter.load().algorithms.values()
    return algorithm.delta(torch.zeros(8, 8))


def test_an_adapter_describes_itself_from_its_header(tmp_path):
    norm = {"lora_unet_down_blocks_0_resnets_0_norm1.w_norm": torch.zeros(4)}
    adapter = saved(tmp_path / "ink.safetensors", pair() | pair(f"{NAME}x", 4, 4.0) | norm, {"a": "b"})
    assert (adapter.name, adapter.rank, adapter.alpha) == ("ink", 4, 4.0)
    assert adapter.algorithms == {"LoRA": 2, "Norm": 1}
    assert (adapter.components, adapter.metadata, adapter.bundled_embeddings) == (("unet",), {"a": "b"}, ())
    assert adapter.nbytes == sum(t.numel() * t.element_size() for t in load_file(adapter.path).values())


@pytest.mark.parametrize(
    "alpha",
    [
        *(torch.tensor(2, dtype=d) for d in (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8)),
        torch.tensor([2.0]),
    ],
)
def test_alpha_of_any_type_and_of_shape_one(alpha, tmp_path):
    adapter = saved(tmp_path / "x.safetensors", pair(alpha=alpha))
    assert adapter.alpha == 2.0
    assert len(adapter.load().algorithms) == 1


def test_a_number_that_is_cut_off_or_of_a_strange_type_is_none(tmp_path):
    adapter = saved(tmp_path / "x.safetensors", pair())
    entry = adapter.tensor_file.entries[f"{NAME}.alpha"]
    assert decode_scalar(entry, b"\0") is None
    assert decode_scalar(entry._replace(dtype="BF16"), b"\0") is None
    assert decode_scalar(entry._replace(dtype="F8_E5M2"), b"\0") is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float64])
def test_loading_gives_the_files_own_numbers(dtype, tmp_path):
    tensors = pair(dtype=dtype)
    expected = tensors[f"{NAME}.lora_up.weight"].float() @ tensors[f"{NAME}.lora_down.weight"].float() / 2
    assert torch.allclose(delta(saved(tmp_path / "x.safetensors", tensors)), expected, atol=1e-5)


def test_loading_costs_the_size_of_the_file_once(tmp_path):
    adapter = saved(tmp_path / "x.safetensors", {k: v for n in range(40) for k, v in pair(f"{NAME}{n}", 2000).items()})
    loaded = adapter.load()
    pointers = [algorithm.up.untyped_storage().data_ptr() for algorithm in loaded.algorithms.values()]
    assert len(set(pointers)) == 1
    assert loaded.nbytes == adapter.nbytes
    tracemalloc.start()
    adapter.load()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2])
def test_a_module_that_diverged_is_left_out(bad, dtype, tmp_path):
    sick = pair(f"{NAME}_sick", dtype=torch.float32)
    sick[f"{NAME}_sick.lora_up.weight"][3, 1] = bad
    sick = {key: tensor.to(dtype) for key, tensor in sick.items()}
    loaded = saved(tmp_path / "x.safetensors", pair(dtype=torch.float32) | sick).load()
    assert len(loaded.algorithms) == 1
    assert loaded.skipped == [(f"{NAME}_sick", "lora_up.weight holds NaN or infinity: its training diverged")]


def test_huge_but_finite_numbers_and_an_infinite_alpha_of_a_full_lokr_are_fine(tmp_path):
    huge = {key: torch.full_like(tensor, 3e38) for key, tensor in pair(alpha=None).items()}
    lokr = {"lora_unet_k.lokr_w1": torch.ones(2, 2), "lora_unet_k.lokr_w2": torch.ones(4, 4)}
    lokr["lora_unet_k.alpha"] = torch.tensor(float("inf"), dtype=torch.float16)
    loaded = saved(tmp_path / "x.safetensors", huge | lokr).load()
    assert (len(loaded.algorithms), loaded.skipped) == (2, [])


def test_contradicting_shapes_are_a_problem_of_one_module(tmp_path):
    wrong = {"lora_unet_w.lora_down.weight": torch.ones(3, 8), "lora_unet_w.lora_up.weight": torch.ones(8, 2)}
    loaded = saved(tmp_path / "x.safetensors", pair() | wrong).load()
    assert [name for name, _ in loaded.skipped] == ["lora_unet_w"]
    assert len(loaded.algorithms) == 1


def test_a_file_that_changed_or_vanished_is_noticed(tmp_path):
    adapter = saved(tmp_path / "x.safetensors", pair())
    save_file(pair(rank=3), adapter.path)
    with pytest.raises(AdapterError, match="has changed"):
        adapter.load()
    assert open_adapter(adapter.path).cache_key != adapter.cache_key
    adapter.path.unlink()
    with pytest.raises(AdapterError, match="can no longer be read"):
        adapter.load()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_tensors_move_and_scalars_stay(tmp_path):
    adapter = saved(tmp_path / "x.safetensors", pair() | {"lora_unet_i.weight": torch.ones(8)})
    (algorithm, _) = adapter.load("cuda").algorithms.values()
    assert algorithm.up.is_cuda
    assert torch.allclose(algorithm.delta(torch.zeros(8, 8, device="cuda")).cpu(), delta(adapter))


def test_the_cache_keeps_what_fits_and_drops_what_is_oldest(tmp_path):
    adapters = [saved(tmp_path / f"{n}.safetensors", pair()) for n in range(3)]
    cache = AdapterCache(max_bytes=2 * adapters[0].nbytes)
    first, second = (cache.get(adapter, "cpu") for adapter in adapters[:2])
    assert cache.get(adapters[0], "cpu") is first
    cache.get(adapters[2], "cpu")
    assert cache.get(adapters[0], "cpu") is first
    assert cache.get(adapters[1], "cpu") is not second
    cache.clear()
    assert cache.get(adapters[0], "cpu") is not first
    assert AdapterCache(0).get(adapters[0], "cpu").nbytes == adapters[0].nbytes


def test_the_cache_counts_what_an_adapter_takes_in_memory(tmp_path):
    """Numbers of 8 bits are kept as float32; what is drawn from a seed comes when a model asks for it."""
    up, down = torch.ones(8, 64, dtype=torch.int8), torch.ones(64, 8, dtype=torch.int8)
    scales = {f"{NAME}.{leaf}.weight_scale": torch.tensor(0.1) for leaf in ("lora_up", "lora_down")}
    quantised = saved(
        tmp_path / "8bit.safetensors",
        {f"{NAME}.lora_up.weight": up, f"{NAME}.lora_down.weight": down, **scales},
    )
    cache = AdapterCache(max_bytes=3 * quantised.nbytes)
    assert cache.get(quantised, "cpu") is not cache.get(quantised, "cpu")
    cache = AdapterCache(max_bytes=5 * quantised.nbytes)
    first = cache.get(quantised, "cpu")
    assert cache.get(quantised, "cpu") is first
    small = saved(tmp_path / "small.safetensors", pair())
    seeded = cache.get(small, "cpu")
    assert cache.get(small, "cpu") is seeded
    group = LayerGroup(((8, 8),), shared=seeded.shared)
    group.once("a pair", lambda: (torch.zeros(5 * quantised.nbytes // 4), torch.zeros(1)))
    assert cache.get(quantised, "cpu") is first
    assert cache.get(small, "cpu") is not seeded


def test_split_parts_are_one_layer(tmp_path):
    torch.manual_seed(0)
    downs, ups = [torch.randn(2, 8) for _ in range(2)], [torch.randn(4, 2) for _ in range(2)]
    tensors = {f"{NAME}.lora_down.{n}.weight": down for n, down in enumerate(downs)}
    tensors |= {f"{NAME}.lora_up.{n}.weight": up for n, up in enumerate(ups)} | {f"{NAME}.alpha": torch.tensor(1.0)}
    adapter = saved(tmp_path / "x.safetensors", tensors, {"ss_network_args": '{"split_qkv": "True"}'})
    expected = torch.cat([up @ down for up, down in zip(ups, downs, strict=True)]) / 2
    assert torch.allclose(delta(adapter), expected, atol=1e-6)


def test_bundled_embeddings_are_named_and_kept_apart(tmp_path):
    bundle = ["bundle_emb.a.b.string_to_param.*", "bundle_emb.cat.clip_l", "bundle_emb.cat.clip_g_out"]
    adapter = saved(tmp_path / "x.safetensors", pair() | {key: torch.ones(1, 4) for key in bundle})
    assert set(adapter.bundled_embeddings) == {"a.b", "cat"}
    assert (len(adapter.layers), adapter.skipped) == (1, ())


KOHYA = {"ss_network_module": "lycoris.kohya", "ss_training_started_at": "1715000000.5"}
ARGUMENTS = {"algo": "DyLoRA", "block_size": "8", "rs_lora": "True", "bypass_mode": "true"}


def test_facts_are_read_from_what_the_trainer_wrote(tmp_path):
    facts = saved(tmp_path / "x.safetensors", pair(), KOHYA | {"ss_network_args": json.dumps(ARGUMENTS)}).training_info
    assert facts == TrainingInfo("lycoris", "dylora", 1715000000.5, 8, rs_lora=True, bypass_mode=True)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"block_size": "many"}', '{"block_size": NaN}', "null"])
def test_nonsense_in_metadata_is_no_fact(text, tmp_path):
    metadata = {"ss_network_args": text, "ss_training_started_at": "yesterday", "lora_adapter_metadata": text}
    assert saved(tmp_path / "x.safetensors", pair(), metadata).training_info.block_size == 4


@pytest.mark.parametrize(
    ("metadata", "keys", "producer"),
    [
        ({"ss_network_module": "networks.lora"}, "lora_unet_x.alpha", "kohya"),
        ({"ot_branch": "master"}, "lora_unet_x.alpha", "onetrainer"),
        ({"software": '{"name": "ai-toolkit"}'}, "lora_unet_x.alpha", "ai-toolkit"),
        ({}, "base_model.model.x.lora_A.weight", "peft"),
        ({}, "lycoris_x.alpha", "lycoris"),
        ({}, "x.___.alpha", "hcp"),
        ({}, "lora_unet_x.alpha", ""),
    ],
)
def test_the_producer(metadata, keys, producer, tmp_path):
    adapter = saved(tmp_path / "x.safetensors", pair() | {keys: torch.ones(1)}, metadata)
    assert adapter.training_info.producer == producer


def test_kohyas_oft_bounds_even_with_alpha_zero(tmp_path):
    for prefix, bound in (("oft_unet_", True), ("lora_unet_", False)):
        tensors = {f"{prefix}x.oft_blocks": torch.zeros(2, 4, 4), f"{prefix}x.alpha": torch.tensor(0.0)}
        assert saved(tmp_path / "x.safetensors", tensors).training_info.constraint_is_bound == bound


def test_a_sidecar_overrides_and_stays_as_it_is(tmp_path):
    sidecar = tmp_path / "x.json"
    sidecar.write_text('{"notes": "mine", "lycoris": {"scale": 0.25, "bad": "x"}}')
    adapter = saved(tmp_path / "x.safetensors", pair())
    assert adapter.training_info.overrides == {"scale": 0.25}
    tensors = pair()
    expected = tensors[f"{NAME}.lora_up.weight"] @ tensors[f"{NAME}.lora_down.weight"] * 0.25
    assert torch.allclose(delta(adapter), expected)
    for content in ("[]", "{", "\xff", '{"lycoris": 3}', '{"lycoris": {"scale": 1%s}}' % ("0" * 400)):
        sidecar.write_text(content, "latin-1")
        assert open_adapter(adapter.path).training_info.overrides is None


PEFT = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "use_rslora": False}


@pytest.mark.parametrize(
    ("change", "scale"),
    [
        ({}, 3.0),
        ({"use_rslora": True}, 6 / 2**0.5),
        ({"alpha_pattern": {"mid.proj": 1}}, 0.5),
        ({"alpha_pattern": {"d.proj": 1}}, 3.0),
        ({"alpha_pattern": {"(a+)+$": 1, "mid.proj$": 4}}, 2.0),
        ({"alpha_pattern": {r"mid\.(proj|to_q)": 4}}, 2.0),
        ({"alpha_pattern": {"^proj": 4}}, 3.0),
        ({"lora_alpha": None}, 1.0),
    ],
)
def test_peft_keeps_alpha_in_a_config_beside_the_file(change, scale, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps(PEFT | change))
    name = "base_model.model.mid.proj"
    plain = pair(name, alpha=None)
    adapter = saved(
        tmp_path / "adapter_model.safetensors",
        {f"{name}.lora_{ab}.weight": plain[f"{name}.lora_{half}.weight"] for ab, half in (("A", "down"), ("B", "up"))},
    )
    expected = plain[f"{name}.lora_up.weight"] @ plain[f"{name}.lora_down.weight"] * scale
    assert torch.allclose(delta(adapter), expected, atol=1e-5)


def test_diffusers_packs_the_config_into_the_metadata(tmp_path):
    packed = {"unet.r": 2, "unet.lora_alpha": 8, "unet.init_lora_weights": "pissa", "text_encoder.lora_alpha": 2}
    name = "unet.mid.proj"
    tensors = {f"{name}.lora_A.weight": torch.ones(2, 8), f"{name}.lora_B.weight": torch.ones(8, 2)}
    adapter = saved(tmp_path / "x.safetensors", tensors, {"lora_adapter_metadata": json.dumps(packed)})
    assert adapter.alpha == 8.0
    assert "pissa" in adapter.notes[0]
    assert torch.allclose(delta(adapter), torch.full((8, 8), 2 * 4.0))
