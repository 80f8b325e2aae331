"""Whatever the keys, shapes and configs of a sound container are: an adapter, or one sentence; never anything else."""

from __future__ import annotations

import json

import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lib_adapters.errors import AdapterError, CorruptFile
from lib_adapters.files.adapter import open_adapter
from lib_adapters.files.key_formats import layer_key
from lib_adapters.files.tensor_keys import split_key
from tests.support.file_skeletons.trainer_keys import write

WORDS = [
    "lora_unet_", "lora_te_", "unet.", "text_encoder.", "base_model.model.", "transformer.", "lycoris_",
    "text_encoders.", "clip_l.", "unet:", "0", "²", "down_blocks_0_attentions_0", "transformer_blocks.1",
    "attn1.to_q", "self_attn_to_q", ".processor.", "to_q_lora", ".___.", "layer.", ":", "up", "down", "lora_up",
    "lora_down", "lora_A", "lora_B", ".weight", ".bias", ".alpha", ".default", ".0", ".²", ".99999999999",
    "hada_w1_a", "lokr_w1", "oft_blocks", "weight", "lora2_nu", "bundle_emb.", "<s1>", ".string_to_param.*",
    "experts.", "diff", "w_norm", "on_input", "dora_scale", "_", ".", "joint_blocks_0",
]  # fmt: skip
KEYS = st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=7).map("".join)
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
ANY_FILE = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["LORA", "OFT", "pissa", "q", "(a+)+$"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["q", "x.q", "scale"]), inner),
    max_leaves=5,
)
CONFIG_KEYS = (
    "peft_type r lora_alpha alpha rank_pattern alpha_pattern use_rslora use_cayley_neumann init_lora_weights"
    " num_cayley_neumann_terms coft eps"
)


@given(KEYS)
@example("lora_unet_x.lora_up.²².weight")
def test_any_key_is_split_without_a_word_lost(key):
    split = split_key(key)
    if split is not None:
        assert key.startswith(split[0].split(".")[0])
        assert layer_key(split[0]).component in ("unet", "te", "te1", "te2", "te3")


@ANY_FILE
@given(st.dictionaries(KEYS, SHAPES, max_size=8))
def test_any_keys_and_shapes_make_an_adapter_or_a_sentence(tmp_path, keys):
    path = write(tmp_path / "x.safetensors", keys)
    try:
        adapter = open_adapter(path)
    except AdapterError:
        return
    loaded = adapter.load()
    used = [key for module in adapter.layers for key in module.tensor_keys.values()]
    assert len(used) == len(set(used))
    assert len(loaded.algorithms) + len(loaded.skipped) == len(adapter.layers)


@ANY_FILE
@given(st.dictionaries(st.sampled_from(CONFIG_KEYS.split()), JSON), JSON, JSON)
@example({"peft_type": "LORA", "lora_alpha": 10**400, "r": -1, "use_rslora": True}, {"scale": 10**400}, None)
def test_any_config_beside_a_file_is_survived(tmp_path, config, sidecar, arguments):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"} | config))
    (tmp_path / "adapter_model.json").write_text(json.dumps({"lycoris": sidecar}))
    metadata = {"ss_network_args": json.dumps(arguments), "lora_adapter_metadata": json.dumps(arguments)}
    for extra in ({}, metadata):
        tensors = {"x.q.lora_A.weight": torch.ones(2, 4), "x.q.lora_B.weight": torch.ones(4, 2)}
        save_file(tensors, tmp_path / "adapter_model.safetensors", extra)
        try:
            adapter = open_adapter(tmp_path / "adapter_model.safetensors")
        except CorruptFile as error:
            assert "is not supported" in str(error)  # noqa: PT017 - any other is a fault
        else:
            assert len(adapter.load().algorithms) == 1
