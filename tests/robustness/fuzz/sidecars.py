"""What lies beside an adapter and in its metadata, from the web UI, sites and trainers, and the card it makes."""

from __future__ import annotations

import json
from pathlib import Path

from lib_adapters.errors import AdapterError
from lib_adapters.files.adapter import open_adapter
from lib_adapters.library import sidecar_json
from lib_adapters.library.cards import build_card, json_head, try_read
from lib_adapters.library.companions import CIVITAI, DESCRIPTIONS, SIDECAR, Companions, companion_path, read_stamp
from lib_adapters.library.details import details
from lib_adapters.library.header_cache import HeaderCache
from lib_adapters.library.previews import embedded_covers
from lib_adapters.library.walk import scan_file
from tests.robustness.fuzz.data_provider import Choices
from tests.robustness.fuzz.headers import NAME, container
from tests.robustness.fuzz.read_checks import check_sentence
from tests.robustness.fuzz.work_folder import folder, put
from tests.support.input_bounds import Bound

DECIDES = True
BOUND = Bound(calls=200_000, calls_per_byte=2_000)
WORDS = [
    *sidecar_json.USER_KEYS, "lycoris", "scale", "trainedWords", "TrainedWords", "name",
    "a, b", "0.8", "", "ss_tag_frequency",
    "\u2028", "1e400", "\ud83d", "ink\nmoss", "__proto__", "-1",
]  # fmt: skip
FIELDS = [
    "ss_tag_frequency", "ss_output_name", "sshs_model_hash", "modelspec.title", "modelspec.description",
    "modelspec.trigger_phrase", "ssmd_keywords", "ssmd_cover_images", "modelspec.thumbnail", "ssmd_description",
    "ss_v2", "ss_network_args",
]  # fmt: skip
TABLES = (SIDECAR, *CIVITAI, *DESCRIPTIONS)


def target(data: bytes) -> None:
    choices = Choices(data)
    path = adapter(choices)
    for suffix in TABLES:
        if choices.chance(3):
            put("sidecars", path.stem + suffix, content(choices))
        else:
            companion_path(path, suffix).unlink(missing_ok=True)
    card = check_card(path)
    check_details(path, card)
    check_saving(choices, path)


def adapter(choices: Choices) -> Path:
    pairs = [f"{json.dumps(choices.one(FIELDS))}:{told(choices)}" for _ in range(choices.number(0, 4))]
    entry = '{"dtype":"F32","shape":[1,1],"data_offsets":[%d,%d]}'
    keys = [
        f'"{NAME}.{leaf}":{entry % (4 * n, 4 * n + 4)}' for n, leaf in enumerate(("lora_up.weight", "lora_down.weight"))
    ]
    text = f'{{"__metadata__":{{{",".join(pairs)}}},{",".join(keys)}}}'
    return put("sidecars", "x.safetensors", container(None, bytes(8), raw=text.encode()))


def told(choices: Choices) -> str:
    value = choices.json(WORDS)
    return value if value[0] == '"' or choices.chance(4) else json.dumps(value)


def content(choices: Choices) -> bytes:
    kind = choices.number(0, 5)
    if kind == 0:
        return choices.raw(choices.number(0, 60))
    return (b"\xef\xbb\xbf" if kind == 1 else b"") + choices.table(WORDS).encode()


def check_card(path: Path) -> dict[str, object]:
    described = build_card(scan_file(path), HeaderCache())
    adapter, error = try_read(path, open_adapter)
    assert json.loads(f"{{{described.card}}}").get("error", "") == error
    assert (adapter is None) == bool(error)
    described.alias.encode(), described.hash.encode()
    card = f'{{"id":1,{json_head(scan_file(path), "x", "x")},{described.card}}}'
    assert len(card) < 50_000
    return sendable(card)


def check_details(path: Path, card: dict[str, object]) -> None:
    told = details(path, card, {})
    assert isinstance(told, dict)
    sendable(json.dumps(told, ensure_ascii=False, allow_nan=False))
    if "error" in told:
        check_sentence(str(told["error"]), path.name)
    for image in embedded_covers(open_adapter(path).metadata if "error" not in told else {}):
        assert isinstance(image, bytes)


def sendable(text: str) -> dict[str, object]:
    """As a page's JSON parser takes it: no NaN, no half letters."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    table: dict[str, object] = json.loads(text.encode("utf-8"), parse_constant=refuse)
    return table


def check_saving(choices: Choices, path: Path) -> None:
    """Other keys and their order stay, what is saved is read, and a refusal leaves the file as it was."""
    sidecar = companion_path(path, SIDECAR)
    before = sidecar.read_bytes() if sidecar.exists() else None
    changes = {choices.one(WORDS): plain(choices) for _ in range(choices.number(1, 3))}
    try:
        sidecar_json.save_sidecar(path, changes)
    except AdapterError as error:
        check_sentence(str(error))
        assert (sidecar.read_bytes() if sidecar.exists() else None) == before
        return
    stored = json.loads(before.decode("utf-8-sig")) if before is not None else {}
    after = json.loads(sidecar.read_bytes())
    assert list(after) == list({**stored, **changes})
    assert all(repr(after[key]) == repr(value) for key, value in stored.items() if key not in changes)
    if sidecar.stat().st_size < sidecar_json.MAX_BYTES:
        found = sidecar_json.read_sidecar(Companions(path, read_stamp(path)))
        assert all(
            found[key] == value
            for key, value in changes.items()
            if isinstance(value, str) and key in sidecar_json.TEXT_KEYS
        )
    assert [one.name for one in folder("sidecars").glob(".lycoris-*")] == []


def plain(choices: Choices) -> object:
    try:
        return json.loads(choices.json(WORDS, 1))
    except (ValueError, RecursionError):
        return None


def seeds() -> list[bytes]:
    return [bytes(range(n, n + 150)) for n in range(0, 100, 20)] + [
        bytes([3] * 99),
        bytes([2, 1, 0, 8] * 40),
        bytes([254, 255] * 90),
    ]
