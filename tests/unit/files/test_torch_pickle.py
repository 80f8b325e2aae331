"""PyTorch's files as data: every torch's format is read, nothing in them is ever run, and bombs do not go off."""

from __future__ import annotations

import builtins
import collections
import io
import pickle
import struct
import tracemalloc
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from lib_adapters.errors import AdapterError, CorruptFile
from lib_adapters.files.adapter import open_adapter
from lib_adapters.files.torch_pickle.reader import read_pickle

NAME = "lora_unet_mid_block_attentions_0_proj_in"
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]


def lora(dtype=torch.float32) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    down, up = torch.randn(2, 8).to(dtype), torch.randn(8, 2).to(dtype)
    return {f"{NAME}.lora_down.weight": down, f"{NAME}.lora_up.weight": up, f"{NAME}.alpha": torch.tensor(2.0)}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float8_e4m3fn])
def test_tensors_come_back_as_they_were(zipped, dtype, tmp_path):
    if dtype == torch.float8_e4m3fn and (not zipped or torch.__version__.startswith("2.1.")):
        pytest.skip("neither the old format nor this torch writes float8")
    value = torch.arange(6).reshape(2, 3).to(dtype)
    torch.save(
        {"a": value, "view": value.T, "part": value[1:]}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped
    )
    back = read_pickle(tmp_path / "x.pt")
    for name, expected in {"a": value, "view": value.T, "part": value[1:]}.items():
        assert back[name].dtype == dtype
        assert torch.equal(back[name].float(), expected.float())


@pytest.mark.parametrize("zipped", [True, False])
def test_plain_containers_numbers_and_parameters(zipped, tmp_path):
    tree = {
        "list": [1, 2.5, "é", None, True, (3, 4)],
        "ordered": collections.OrderedDict(a=torch.ones(2)),
        "parameter": nn.Parameter(torch.ones(3)),
        "table": nn.ParameterDict({"p": nn.Parameter(torch.zeros(1))}),
        320: (torch.Size([1, 2]), b"raw", 1 << 70),
        "empty": torch.empty(0, 4),
    }
    torch.save(tree, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    back = read_pickle(tmp_path / "x.pt")
    assert back["list"] == [1, 2.5, "é", None, True, (3, 4)]
    assert torch.equal(back["ordered"]["a"], torch.ones(2))
    assert torch.equal(back["parameter"], torch.ones(3))
    assert torch.equal(back["table"]["p"], torch.zeros(1))
    assert back[320] == ((1, 2), b"raw", 1 << 70)
    assert back["empty"].shape == (0, 4)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_of_a_module_with_its_hidden_metadata(zipped, tmp_path):
    module = nn.Linear(3, 2)
    torch.save(module.state_dict(), tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_pickle(tmp_path / "x.pt")["weight"], module.weight)


@pytest.mark.parametrize("wrap", [dict, lambda d: {"state_dict": d}, lambda d: {"lora": d, "step": 3}])
@pytest.mark.parametrize("zipped", [True, False])
def test_an_adapter_in_a_pickle_is_an_adapter(wrap, zipped, tmp_path):
    torch.save(wrap(lora(torch.float16)), tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    adapter = open_adapter(tmp_path / "x.pt")
    assert (adapter.algorithms, adapter.rank, adapter.alpha) == ({"LoRA": 1}, 2, 2.0)
    (algorithm,) = adapter.load().algorithms.values()
    expected = lora(torch.float16)
    delta = expected[f"{NAME}.lora_up.weight"].float() @ expected[f"{NAME}.lora_down.weight"].float()
    assert torch.allclose(algorithm.delta(torch.zeros(8, 8)), delta, atol=1e-6)


def test_alpha_may_be_a_plain_number(tmp_path):
    torch.save(lora() | {f"{NAME}.alpha": 4}, tmp_path / "x.pt")
    adapter = open_adapter(tmp_path / "x.pt")
    assert adapter.alpha == 4.0
    assert len(adapter.load().algorithms) == 1


class Evil:
    """Whatever is asked of a reader, this pickle wants to call something."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


PAYLOADS = {
    "eval": (eval, "canary.append(1)"),
    "exec": (exec, "raise SystemExit"),
    "open": (builtins.open, "canary", "w"),
    "getattr": (getattr, "a", "upper"),
    "torch.load": (torch.load, "x.pt"),
    "nested": (pickle.loads, pickle.dumps(Evil(print, "x"))),
}


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("form", ["zip", "old", "raw", "hidden"])
def test_code_is_named_and_never_run(payload, form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = Evil(*PAYLOADS[payload])
    tree = lora() | {"x": {"deep": [evil]}} if form == "hidden" else evil
    if form == "raw":
        (tmp_path / "x.pt").write_bytes(pickle.dumps(tree))
    else:
        torch.save(tree, tmp_path / "x.pt", _use_new_zipfile_serialization=form != "old")
    for read in (open_adapter, read_pickle):
        with pytest.raises(CorruptFile, match=r"^x\.pt contains code \(\S+\); it was not run$"):
            read(tmp_path / "x.pt")
    assert not (tmp_path / "canary").exists()


def zipped_pickle(path, raw: bytes, **others: bytes):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("x/data.pkl", raw)
        for name, content in others.items():
            archive.writestr(f"x/data/{name}", content)
    return path


HOSTILE = {
    "huge memo": b"\x80\x02Nr\xff\xff\xff\xff.",
    "huge text": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"a.",
    "empty stack": b"\x80\x02a.",
    "no end": b"\x80\x02}",
    "deep": b"\x80\x02" + b"]" * 1000 + b"a" * 999 + b".",
    "many": b"\x80\x02" + b"}" * 1_100_000 + b".",
    "tuple key": b"\x80\x02}K\x01K\x02\x86K\x01s.",
    "object": b"\x80\x02}ccollections\nOrderedDict\n)\x81}b.",
    "extension": b"\x80\x02\x82\x01.",
    "inst": b"(S'x'\nios\nsystem\n.",
    "endless": b"\x80\x02]q\x00h\x00a.",
    "text key": b"\x80\x02}X\x01\x00\x00\x00aX\x01\x00\x00\x00bs.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_cost_nothing(name, tmp_path):
    path = zipped_pickle(tmp_path / "x.pt", HOSTILE[name])
    tracemalloc.start()
    try:
        with pytest.raises(AdapterError, match=r"^x\.pt "):
            open_adapter(path)
        assert tracemalloc.get_traced_memory()[1] < 200_000_000
    finally:
        tracemalloc.stop()


def test_a_compressed_archive_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\0" * 10_000_000)
    with pytest.raises(CorruptFile, match="compressed or locked"):
        open_adapter(tmp_path / "x.pt")


def test_circles_and_shared_parts_are_visited_a_bounded_number_of_times(tmp_path):
    shared = [1]
    for _ in range(60):
        shared = [shared, shared]
    torch.save({"a": shared}, tmp_path / "x.pt")
    for read in (read_pickle, open_adapter):
        with pytest.raises(AdapterError):
            read(tmp_path / "x.pt")


def test_a_tensor_that_reaches_beyond_its_data_is_refused(tmp_path):
    torch.save({f"{NAME}.lora_up.weight": torch.ones(64, 64)}, tmp_path / "x.pt")
    stored = zipfile.ZipFile(tmp_path / "x.pt")
    raw = next(stored.read(n) for n in stored.namelist() if n.endswith("data.pkl"))
    path = zipped_pickle(tmp_path / "y.pt", raw, **{"0": b"\0" * 64})
    with pytest.raises(CorruptFile, match="reaches beyond its data"):
        open_adapter(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_cut_off_file_says_so(zipped, tmp_path):
    torch.save(lora(), tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(whole[:-40])
    with pytest.raises(CorruptFile, match="incomplete"):
        open_adapter(tmp_path / "x.pt")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), zipped=st.booleans())
def test_damage_anywhere_never_raises_anything_but_ours(data, zipped, tmp_path):
    buffer = io.BytesIO()
    torch.save(lora(), buffer, _use_new_zipfile_serialization=zipped)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "x.pt").write_bytes(bytes(content))
    for read in (read_pickle, lambda path: open_adapter(path).load()):
        try:
            read(tmp_path / "x.pt")
        except AdapterError:
            continue


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(raw=st.binary(max_size=60))
def test_any_bytes_as_a_pickle_never_raise_anything_but_ours(raw, tmp_path):
    try:
        read_pickle(zipped_pickle(tmp_path / "x.pt", b"\x80\x02" + raw + b"."))
    except AdapterError:
        return


def test_a_table_of_numbers_that_are_not_whole_is_no_adapter(tmp_path):
    torch.save({1.5: torch.ones(2)}, tmp_path / "x.pt")
    with pytest.raises(AdapterError, match=r"^x\.pt "):
        open_adapter(tmp_path / "x.pt")


def test_what_a_file_calls_something_stays_on_one_line(tmp_path):
    texts = []
    for name, content in {"global": b"\x80\x02X\x03\x00\x00\x00a\nbX\x03\x00\x00\x00c\x1cd\x93."}.items():
        with pytest.raises(CorruptFile) as caught:
            open_adapter(zipped_pickle(tmp_path / f"{name}.pt", content))
        texts.append(str(caught.value))
    with zipfile.ZipFile(tmp_path / "z.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x\n/data.pkl", b"")
    with pytest.raises(CorruptFile) as caught:
        open_adapter(tmp_path / "z.pt")
    assert [len(text.splitlines()) for text in [*texts, str(caught.value)]] == [1, 1]
