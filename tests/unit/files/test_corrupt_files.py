"""Damaged and hostile files: one sentence with the file's name, never another exception, never much memory."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from lib_adapters.conditioning.textual_inversion import read_bundled_embeddings
from lib_adapters.errors import AdapterError, CorruptFile
from lib_adapters.files.adapter import open_adapter
from lib_adapters.library.header_cache import HeaderCache
from tests.support.file_skeletons.trainer_keys import write

NAME = "lora_unet_mid_block_attentions_0_proj_in"
GOOD = {
    f"{NAME}.lora_down.weight": torch.ones(2, 8),
    f"{NAME}.lora_up.weight": torch.ones(8, 2),
    f"{NAME}.alpha": torch.tensor(1.0),
}
ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def container(header: object, data: bytes = b"", raw: bytes | None = None) -> bytes:
    text = raw if raw is not None else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def refused(tmp_path, content: bytes, name: str = "x.safetensors") -> str:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(AdapterError) as caught:
        open_adapter(path)
    assert str(caught.value).startswith(f"{name} ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"\0" * 64, "is incomplete"),
        (b"abc", "is incomplete"),
        (b"<!DOCTYPE html><html><title>Log in</title></html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (b'{"error": "not found"}', "is a JSON text"),
        (b"7z\xbc\xaf\x27\x1c" + b"x" * 50, "is an archive"),
        (b"PK\x03\x04" + b"x" * 50, "incomplete download"),
        (b"\x93NUMPY" + b"x" * 50, "is neither"),
        (struct.pack("<Q", 1 << 60) + b"{" * 50, "is neither"),
        (struct.pack("<Q", 5000) + b'{"a', "is incomplete: 11 of at least 5008 bytes"),
        (container(None, raw=b'{"a": '), "damaged safetensors header"),
        (container(None, raw=b"{\xff\xfe}"), "damaged safetensors header"),
        (container(None, raw=b'{"a":' * 100_000), "nested too deeply"),
        (container(None, raw=b'{"x": {"dtype": "F32"}, "x": {}}'), "'x' appears twice"),
        (container({"a": [1, 2]}), "is not a tensor"),
        (container({"a": ENTRY | {"shape": [-2]}}, b"x" * 8), "impossible"),
        (container({"a": ENTRY | {"shape": [1 << 40, 1 << 40]}}, b"x" * 8), "another number of bytes"),
        (container({"a": ENTRY | {"shape": [1.0]}}, b"x" * 8), "impossible"),
        (container({"a": ENTRY | {"shape": [True]}}, b"x" * 8), "impossible"),
        (container({"a": ENTRY | {"data_offsets": [8, 0]}}, b"x" * 8), "impossible"),
        (container({"a": ENTRY | {"data_offsets": [0, 8, 9]}}, b"x" * 8), "is not a tensor"),
        (container({"a": ENTRY, "b": ENTRY}, b"x" * 8), "overlap or leave a gap"),
        (container({"a": ENTRY | {"data_offsets": [8, 16]}}, b"x" * 16), "overlap or leave a gap"),
        (container({"a": ENTRY}, b"x" * 12), "4 bytes too many"),
        (container({}), "holds no tensors"),
        (container({"a": ENTRY | {"shape": [1e400]}}, b"x" * 8), "Infinity is not a number"),
        (container({"": ENTRY}, b"x" * 8), "no known adapter"),
        (container({"model.layer.some": ENTRY}, b"x" * 8), "no known adapter"),
    ],
)
def test_a_broken_file_gets_one_sentence(content, sentence, tmp_path):
    assert sentence in refused(tmp_path, content)


def test_a_download_that_was_cut_off_says_how_much_is_there(tmp_path):
    content = save(GOOD)
    assert f"is incomplete: {len(content) - 5} of {len(content)} bytes" in refused(tmp_path, content[:-5])


def test_what_is_no_file(tmp_path):
    for path, sentence in ((tmp_path / "gone.safetensors", "does not exist"), (tmp_path, "is a folder")):
        with pytest.raises(AdapterError, match=sentence):
            open_adapter(path)


@pytest.mark.parametrize("padding", [b" ", b"\n\t "])
def test_padded_and_pretty_printed_headers_are_fine(padding, tmp_path):
    content = save(GOOD)
    length = struct.unpack("<Q", content[:8])[0]
    pretty = padding + json.dumps(json.loads(content[8 : 8 + length]), indent=1).encode() + b"   "
    (tmp_path / "x.safetensors").write_bytes(container(None, content[8 + length :], raw=pretty))
    assert len(open_adapter(tmp_path / "x.safetensors").layers) == 1


@pytest.mark.parametrize(
    ("metadata", "known"),
    [(None, {}), ({"a": "b"}, {"a": "b"}), ({"a": 1, "b": {"c": []}}, {"a": "1", "b": "{\"c\": []}"})],
)  # fmt: skip
def test_metadata_may_be_absent_or_not_text(metadata, known, tmp_path):
    content = save(GOOD)
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length]) | {"__metadata__": metadata}
    (tmp_path / "x.safetensors").write_bytes(container(header, content[8 + length :]))
    assert open_adapter(tmp_path / "x.safetensors").metadata == known


@pytest.mark.parametrize("length", [0x80, 0x4B50, 0x213C, 0x02_80, 0x7B])
def test_the_kind_is_told_by_parsing_never_by_the_first_bytes(length, tmp_path):
    """A header's length can look like a pickle, a zip, a web page or JSON."""
    header = {k: {"dtype": "F32", "shape": list(t.shape)} for k, t in GOOD.items()}
    position = 0
    for key, tensor in GOOD.items():
        header[key]["data_offsets"] = [position, position + tensor.numel() * 4]
        position += tensor.numel() * 4
    short = json.dumps(header).encode()
    while length < len(short):
        length += 1 << 16
    (tmp_path / "x.safetensors").write_bytes(container(None, b"\0" * position, raw=short.ljust(length)))
    assert open_adapter(tmp_path / "x.safetensors").algorithms == {"LoRA": 1}


def test_a_pickle_or_an_archive_under_a_false_name_is_told_apart(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pt")
    assert "is a PyTorch pickle under the name" in refused(tmp_path, (tmp_path / "x.pt").read_bytes())
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("style.safetensors", save(GOOD))
    assert "is an archive without PyTorch data" in refused(tmp_path, (tmp_path / "z.zip").read_bytes())


@pytest.mark.parametrize(
    ("start", "repeated"),
    [
        (b'{"a": ', b"[],"),
        (b"{", b'"a":{},'),
        (b"[", b'"ab",'),
        (b'{"', b'\\"'),
        (b'{"a": ', b"[" * 3 + b"]" * 3 + b","),
    ],
)
@pytest.mark.parametrize("size", [3_900_000, 40_000_000])
def test_an_absurd_header_costs_little_more_than_its_size(start, repeated, size, tmp_path):
    content = container(None, raw=start + repeated * (size // len(repeated)))
    tracemalloc.start()
    try:
        refused(tmp_path, content)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(content) + 250_000_000
    finally:
        tracemalloc.stop()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_anywhere_never_raises_anything_but_ours(data, tmp_path):
    content = bytearray(save(GOOD, {"ss_network_args": '{"algo": "lokr"}'}))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    _open_and_load(tmp_path / "x.safetensors", bytes(content))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.sampled_from(["F32", "F16"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "a.alpha", "__metadata__"]), inner)
        ),
        max_leaves=12,
    ),
    st.binary(max_size=16),
)
def test_any_json_as_a_header_never_raises_anything_but_ours(tmp_path, header, data):
    _open_and_load(tmp_path / "x.safetensors", container(header, data))


def _open_and_load(path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        adapter = open_adapter(path)
    except AdapterError:
        return
    loaded = adapter.load()
    assert len(loaded.algorithms) + len(loaded.skipped) == len(adapter.layers)


def test_one_damaged_module_leaves_the_rest_working(tmp_path):
    other = {key.replace("proj_in", "proj_out"): tensor.clone() for key, tensor in GOOD.items()}
    half = {"lora_unet_half.lora_up.weight": torch.ones(8, 2), "lora_unet_half.alpha": torch.tensor(1.0)}
    odd = {"lora_unet_odd.lokr_w1": torch.ones(2, 2), "lora_unet_odd.oft_blocks": torch.ones(2, 2, 2)}
    empty = {"lora_unet_e.lora_up.weight": torch.ones(8, 0), "lora_unet_e.lora_down.weight": torch.ones(0, 8)}
    long = {key.replace("proj_in", "long"): tensor.clone() for key, tensor in GOOD.items() if "alpha" not in key}
    long[f"{NAME.replace('proj_in', 'long')}.alpha"] = torch.ones(3)
    orphan = {"lora_unet_orphan.alpha": torch.tensor(1.0)}
    save_file(GOOD | other | half | odd | empty | long | orphan, tmp_path / "x.safetensors")
    adapter = open_adapter(tmp_path / "x.safetensors")
    assert len(adapter.layers) == 2
    reasons = dict(adapter.skipped)
    assert "without lora_down.weight" in reasons["lora_unet_half"]
    assert "is empty (rank 0)" in reasons["lora_unet_e"]
    assert "should be one number" in reasons[NAME.replace("proj_in", "long")]
    assert "lora_unet_odd" in reasons
    assert any("do nothing" in note for note in adapter.notes)


def test_half_a_letter_is_no_name(tmp_path):
    raw = json.dumps({"lora_unet_x\ud83d.alpha": ENTRY}).encode()
    assert "is absurdly long, or no text" in refused(tmp_path, container(None, b"x" * 8, raw=raw))


def test_metadata_nested_as_deep_as_can_be_read_are_told_or_refused_by_all(tmp_path):
    """Writing JSON takes more of the stack than reading it."""
    for depth in range(900, 1010):
        raw = b'{"__metadata__":{"a":' + b"[" * depth + b"]" * depth + b"}}"
        (tmp_path / "x.safetensors").write_bytes(container(None, raw=raw))
        for read in (open_adapter, HeaderCache().summarize):
            with pytest.raises(AdapterError):
                read(tmp_path / "x.safetensors")


WIDE = 1 << 16


@pytest.mark.parametrize(
    "leaves",
    [
        {"lora_up.0.weight": (1, WIDE), "lora_up.1.weight": (WIDE, 1), "lora_down.0.weight": (WIDE, 1),
         "lora_down.1.weight": (1, 1)},
        {"lora_up.0.weight": (4, 2), "lora_up.1.weight": (4, 2), "lora_down.0.weight": (2, 8),
         "lora_down.1.weight": (2, 4)},
        {"lora_up.0.weight": (4,), "lora_down.0.weight": (2,)},
        {"lora_up.weight": (8, 2), "lora_down.weight": (2, 8), "bias_indices": (2, 1)},
        {"lora_up.weight": (8, 2), "lora_down.weight": (2, 8), "bias_indices": (2, 1), "bias_values": (1,)},
    ],
)  # fmt: skip
def test_parts_that_do_not_belong_together_are_no_module(leaves, tmp_path):
    write(tmp_path / "x.safetensors", {f"{NAME}.{leaf}": shape for leaf, shape in leaves.items()})
    with pytest.raises(CorruptFile, match="holds nothing that can be used"):
        open_adapter(tmp_path / "x.safetensors")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, getattr(torch, "uint64", torch.uint8), torch.float32])
@pytest.mark.parametrize("size", [torch.tensor(8), torch.ones(9000), torch.tensor([2**62, 2**62])])
def test_a_sparse_residual_that_lies_nowhere_is_told(dtype, size, tmp_path):
    sparse = {"bias_indices": torch.tensor([[1.0], [2.0]]).to(dtype), "bias_values": torch.ones(1), "bias_size": size}
    save_file(GOOD | {f"{NAME}.{leaf}": tensor for leaf, tensor in sparse.items()}, tmp_path / "x.safetensors")
    loaded = open_adapter(tmp_path / "x.safetensors").load()
    assert len(loaded.algorithms) + len(loaded.skipped) == 1
    assert all(len(reason) < 300 for _, reason in loaded.skipped)


def test_an_embedding_that_is_no_list_of_vectors_is_no_word(tmp_path):
    odd = {"bundle_emb.a.clip_l": torch.tensor(1.0), "bundle_emb.b.clip_l": torch.ones(2, 2, 2)}
    good = {"bundle_emb.c.clip_l": torch.ones(2, 4)}
    save_file(GOOD | odd | good, tmp_path / "x.safetensors")
    words = read_bundled_embeddings(open_adapter(tmp_path / "x.safetensors"))
    assert {word.token: list(word.vectors) for word in words} == {
        "a": [], "b": [], "c": ["clip_l"]
    }  # fmt: skip
