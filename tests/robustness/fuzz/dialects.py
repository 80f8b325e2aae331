"""Files that a trainer might have written, with names, shapes, types, numbers or metadata changed: key -> module."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from functools import cache

from lib_adapters.algorithms import ALGORITHMS
from lib_adapters.files.tensor_file import ITEM_SIZES
from tests.robustness.fuzz.data_provider import Choices
from tests.robustness.fuzz.headers import container
from tests.robustness.fuzz.read_checks import read
from tests.robustness.fuzz.work_folder import folder, put
from tests.support.algorithm_examples import examples
from tests.support.file_skeletons import base_model_layers, trainer_keys
from tests.support.input_bounds import Bound

DECIDES = True
BOUND = Bound(calls=2_000_000, memory=128 << 20)  # of a file with 300 tensors
MOST_BYTES = 1 << 20  # of tensors, unless one is made large on purpose
PREFIXES = [
    "lora_unet_", "lora_te_", "lora_te1_", "unet.", "base_model.model.", "text_encoder.", "lycoris_", "oft_unet_",
    "transformer.", "diffusion_model.", "unet:", "text_encoder:", "bundle_emb.", "<", "text_encoders.clip_l.", "",
]  # fmt: skip
PATHS = [
    "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", "mid_block.attentions.0.proj_in", "x", "0",
    "up_blocks_3_resnets_2_conv1", "text_model.encoder.layers.0.mlp.fc1",
    "input_blocks_1_1_transformer_blocks_0_attn2_to_k", "joint_blocks_0_x_block_attn_qkv",
    "down_blocks.0.attn1.processor.to_q_lora", "99999", "²",
]  # fmt: skip
AXES = [8, 2, 4, 1, 0, 3, 16, 768, 1024, 2048, 1 << 16, 1 << 20, 1 << 62]
TYPES = ["F32", "F16", "BF16", "F8_E4M3", "I64", "BOOL", "F64", "U16", "C64", "I8"]
NUMBERS = [1.0, 0.0, float("nan"), float("inf"), -1e30, 1e-30, 65504.0, 3.5]
FIELDS = [
    "ss_network_args", "ss_network_module", "ss_training_started_at", "ss_base_model_version",
    "modelspec.architecture", "ss_v2", "lora_adapter_metadata", "unet", "text_encoder", "ss_output_name",
    "sshs_model_hash", "format", "software",
]  # fmt: skip
WORDS = [
    "dylora", "lokr", "true", "sdxl", "stable-diffusion-v1", "networks.oft", "networks.dylora", "lycoris.kohya",
    "1.7e9", "LORA", "OFT", "peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "algo",
    "block_size", "rs_lora", "split_qkv", "bypass_mode", "scale", "(a+)+$", "unet.r", "unet.lora_alpha",
    "CrossAttention", "GEGLU", "init_lora_weights", "pissa",
]  # fmt: skip
KINDS = (
    trainer_keys.lora, trainer_keys.loha, trainer_keys.lokr, trainer_keys.dora,
    trainer_keys.ia3, trainer_keys.oft, trainer_keys.full,
)  # fmt: skip
Keys = dict[str, tuple[int, ...]]


def target(data: bytes) -> None:
    choices = Choices(data)
    keys = changed(choices, base(choices))
    pairs = [f"{json.dumps(choices.one(FIELDS))}:{told(choices)}" for _ in range(choices.number(0, 4))]
    metadata = f"{{{','.join(dict.fromkeys(pairs))}}}" if pairs else ""
    beside(choices)
    read(put("dialects", "x.safetensors", written(choices, keys, metadata)))


def told(choices: Choices) -> str:
    """A text of JSON in a text, as trainers write it, or JSON itself."""
    value = choices.json(WORDS, 2)
    return value if value[0] == '"' or choices.chance(4) else json.dumps(value)


def beside(choices: Choices) -> None:
    for name, wrapped in (("adapter_config.json", False), ("x.json", True)):
        if choices.chance(4):
            table = choices.table(WORDS)
            put(
                "dialects",
                name,
                (f'{{"lycoris":{table}}}' if wrapped else table.replace("{", '{"peft_type":"LORA",', 1)).encode(),
            )
        else:
            (folder("dialects") / name).unlink(missing_ok=True)


@cache
def samples() -> list[Keys]:
    """One module of each algorithm's every form, and two layers of each producer's files."""
    forms: list[Keys] = [
        {f"lora_unet_x.{leaf}": tuple(tensor.shape) for leaf, tensor in example.leaves.items()}
        for example in examples().values()
    ]
    tiny = dict([*base_model_layers.unet("sd1", 40).items()][2:6])
    kinds = (
        trainer_keys.lora,
        trainer_keys.loha,
        trainer_keys.lokr,
        trainer_keys.dora,
        trainer_keys.ia3,
        trainer_keys.oft,
        trainer_keys.full,
    )
    forms += [trainer_keys.flattened("lora_unet_", tiny, kind) for kind in kinds]
    forms += [trainer_keys.dotted(prefix, tiny, trainer_keys.renamed("lora_A.weight", "lora_B.weight"))
              for prefix in ("unet.", "base_model.model.", "diffusion_model.")]  # fmt: skip
    forms.append(trainer_keys.dotted("unet.", tiny, joint=".___.layer."))
    forms.append(trainer_keys.processors("unet.", tiny))
    forms.append({f"unet:{n}:{half}": shape for n in range(144) for half, shape in (("up", (4, 1)), ("down", (1, 4)))})
    parts = [
        (f"lora_unet_x.lora_{half}.{n}.weight", shape)
        for n in range(3)
        for half, shape in (("up", (4, 2)), ("down", (2, 8)))
    ]
    forms.append(dict(parts))
    return forms


def base(choices: Choices) -> Keys:
    found = dict(choices.one(samples()))
    if choices.chance(3):
        found |= {key.replace("_x.", "_y."): shape for key, shape in choices.one(samples()).items()}
    return found


def changed(choices: Choices, keys: Keys) -> Keys:
    for _ in range(choices.number(0, 5)):
        if keys:
            key = choices.one([*keys])
            choices.one(CHANGES)(choices, keys, key, keys[key])
    return keys


def place(choices: Choices) -> str:
    return choices.one(PREFIXES) + choices.one(PATHS)


def all_elsewhere(choices: Choices, keys: Keys, *_: object) -> None:
    for key in [*keys]:
        keys[key.replace("lora_unet_x", place(choices))] = keys.pop(key)


Change = Callable[[Choices, Keys, str, tuple[int, ...]], object]
CHANGES: list[Change] = [
    lambda choices, keys, key, shape: keys.pop(key),
    lambda choices, keys, key, shape: keys.update({key: tuple(choices.some(lambda: choices.one(AXES), 5))}),
    lambda choices, keys, key, shape: keys.update({key: axis_changed(choices, shape)}),
    lambda choices, keys, key, shape: keys.update({f"{place(choices)}.{key.rpartition('.')[2]}": keys.pop(key)}),
    lambda choices, keys, key, shape: keys.update({moved(choices, key): shape}),
    lambda choices, keys, key, shape: keys.update({f"lora_unet_x.{choices.one(leaves())}": shape}),
    lambda choices, keys, key, shape: keys.update({choices.text(20) + key: shape}),
    all_elsewhere,
]


def axis_changed(choices: Choices, shape: tuple[int, ...]) -> tuple[int, ...]:
    """One axis is another: the others still fit their partners."""
    if not shape:
        return (choices.one(AXES),)
    at = choices.number(0, len(shape) - 1)
    return (*shape[:at], choices.one(AXES), *shape[at + 1 :])


def moved(choices: Choices, key: str) -> str:
    """Under another prefix, or with a number in its leaf."""
    return choices.one(
        [choices.one(PREFIXES) + key, key.replace(".weight", f".{choices.one('0159')}.weight"), key + ".default"]
    )


@cache
def leaves() -> list[str]:
    from lib_adapters.files import tensor_keys

    return sorted(tensor_keys._CANONICAL_BY_ALIAS)


def written(choices: Choices, keys: Keys, metadata: str) -> bytes:
    """Sound, unless tensors are so large that the file must be cut off."""
    header: dict[str, object] = {}
    usual, position, parts = choices.one(TYPES[:5]), 0, []
    for key, shape in keys.items():
        dtype = choices.one(TYPES) if choices.chance(12) else usual
        size = min(math.prod(shape), 1 << 70) * ITEM_SIZES.get(dtype, 8)
        header[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + size]}
        parts.append(content(choices, dtype, min(size, max(0, MOST_BYTES - position))))
        position += size
    table = json.dumps(header)
    text = f'{{"__metadata__":{metadata}{"," if header else ""}{table[1:]}' if metadata else table
    return container(None, b"".join(parts), raw=text.encode())


def content(choices: Choices, dtype: str, size: int) -> bytes:
    if dtype == "F32":
        unit = struct.pack("<f", choices.one(NUMBERS) if choices.chance(6) else 0.5)
    else:
        unit = choices.raw(8) if choices.chance(6) else b"\x01\x3c"
    return (unit * (size // max(1, len(unit)) + 1))[:size] if unit else bytes(size)


def seeds() -> list[bytes]:
    """Every sample as it is, and some in which much is changed."""
    assert len(ALGORITHMS) < len(samples())
    return [bytes([n]) for n in range(len(samples()))] + [bytes(range(n, n + 90)) for n in range(0, 160, 20)]
