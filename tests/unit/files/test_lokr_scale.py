"""LoKr with two whole factors: the scale that only metadata can tell, and whose file it is not."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from lib_adapters.files.adapter import open_adapter

NAME = "lora_unet_mid_block_attentions_0_proj_in"
CDKA = "networks.cdka"


def opened(path, alpha, metadata, w1=(4, 2), extra=None):
    torch.manual_seed(0)
    tensors = {f"{NAME}.lokr_w1": torch.randn(w1), f"{NAME}.lokr_w2": torch.randn(2, 4)}
    tensors |= {f"{NAME}.alpha": torch.as_tensor(alpha)} if alpha is not None else {}
    save_file(tensors | (extra or {}), path, metadata)
    adapter = open_adapter(path)
    (algorithm,) = adapter.load().algorithms.values()
    return adapter, algorithm.delta(torch.zeros(8, 8)), torch.kron(*list(tensors.values())[:2])


@pytest.mark.parametrize(
    ("module", "arguments", "scale"),
    [
        (CDKA, {"cdka_alpha": "4", "factor_in": "2"}, 4 / math.sqrt(2)),  # CdkaModule: cdka_alpha / sqrt(in_n)
        (CDKA, {"cdka_alpha": 0.5}, 0.5 / math.sqrt(2)),
        (CDKA, {}, 1.0),
        (CDKA, {"cdka_alpha": None}, 1.0),
        (CDKA, {"cdka_alpha": "many"}, 1.0),
        ("networks.krona", {"krona_alpha": "4", "use_cdka_scale": "true"}, 4 / math.sqrt(2)),  # KronaModule: the same
        ("networks.krona", {"krona_alpha": "4"}, 1.0),
        ("networks.krona", {"cdka_alpha": "4"}, 1.0),
        ("lycoris.kohya", {"cdka_alpha": "4"}, 1.0),
        ("", {"cdka_alpha": "4"}, 1.0),
    ],
)
def test_cdka_divides_its_alpha_by_the_root_of_w1s_columns(module, arguments, scale, tmp_path):
    metadata = {"ss_network_module": module, "ss_network_args": json.dumps(arguments)}
    metadata |= {"ss_network_dim": "16"} if module.startswith("networks.") else {}
    adapter, delta, product = opened(tmp_path / "x.safetensors", 4.0, metadata)
    torch.testing.assert_close(delta, product * scale)
    assert adapter.notes == ()


@pytest.mark.parametrize(
    ("dim", "alpha", "arguments", "noted"),
    [
        ("64", 64.0, {}, False),
        ("64", torch.tensor(64, dtype=torch.bfloat16), {}, False),
        ("10000", torch.tensor(10000.0).bfloat16(), {}, False),
        ("100000", torch.tensor(1e5).half(), {}, False),  # infinite
        ("64", 8 * 64.0, {"rs_lora": "True"}, False),
        ("64", 32.0, {"conv_dim": "32"}, False),
        ("64", None, {}, False),
        (None, 1.0, {}, False),
        ("None", 1.0, {}, False),
        ("64", 1.0, {}, True),
        ("64", 9999999999.0, {}, True),
    ],
)
def test_alpha_that_lycoris_would_not_have_written_is_noted(dim, alpha, arguments, noted, tmp_path):
    metadata = {"ss_network_args": json.dumps(arguments)} | ({"ss_network_dim": dim} if dim is not None else {})
    adapter, delta, product = opened(tmp_path / "x.safetensors", alpha, metadata)
    torch.testing.assert_close(delta, product)
    assert [("another program" in note and "LyCORIS writes 64" in note) for note in adapter.notes] == [True] * noted


def test_layers_with_a_factor_of_low_rank_are_not_looked_at(tmp_path):
    half = {f"{NAME}.lokr_w1": torch.ones(2, 2), f"{NAME}.lokr_w2_a": torch.ones(4, 2), f"{NAME}.alpha": torch.ones(())}
    save_file(half | {f"{NAME}.lokr_w2_b": torch.ones(2, 4)}, tmp_path / "x.safetensors", {"ss_network_dim": "64"})
    assert open_adapter(tmp_path / "x.safetensors").notes == ()
