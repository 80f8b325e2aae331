"""A file of block-weight presets, and the same text as the weights of one tag."""

from __future__ import annotations

from lib_adapters.errors import AdapterError
from lib_adapters.library.preset_file import PRESET_FILE_NAME, PresetFile
from lib_adapters.prompt.block_presets import format_presets, parse_presets
from lib_adapters.prompt.block_weights import BlockWeightSpec, Presets
from tests.robustness.fuzz.read_checks import check_sentence
from tests.robustness.fuzz.work_folder import folder, put
from tests.support.input_bounds import Bound
from tests.support.prompt_checks import check_resolved

BOUND = Bound(calls=30_000, calls_per_byte=2_000)
TOKENS = [
    b"\n", b"\r\n", b"\x0b", b"\x1c", b"\x85", "\u2028".encode(), "\ufeff".encode(), b"[lbwe]\n", b"#", b":", b",",
    b";", b"*", b"NOT ", b"IN05-OUT03", b"MID", b"BASE", b"J05", b"R", b"U", b"X", b"X-0.5", b"0.5", b"1e999",
    b"attn", b"OUTS", b"\xed\xa0\x80",
]  # fmt: skip


def target(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    presets, problems = parse_presets(text)
    assert len(problems) + len(presets.blocks) + len(presets.elements) <= len(text.splitlines())
    assert parse_presets(format_presets(presets)) == (presets, [])
    check_resolved(BlockWeightSpec(text[:400], x=0.5))
    check_resolved(BlockWeightSpec(elements=text[:400]))
    check_file(data, presets)


def check_file(data: bytes, presets: Presets) -> None:
    """What was read can be saved, and is then what the file says; lines that say nothing stay in it."""
    file = PresetFile(put("presets", PRESET_FILE_NAME, data))
    before = file.listing()
    for problem in before.problems:
        check_sentence(problem)
    try:
        file.save(Presets(presets.blocks, presets.elements | {"one more": ":attn:0.5"}))
    except AdapterError as error:
        return check_sentence(str(error))
    after = PresetFile(folder("presets") / PRESET_FILE_NAME).listing()
    assert after.own_presets.blocks == presets.blocks
    assert after.own_presets.elements == presets.elements | {"one more": ":attn:0.5"}
    assert [one.partition(": ")[2] for one in after.problems] == [one.partition(": ")[2] for one in before.problems]


def seeds() -> list[bytes]:
    return [
        b"OUTS:1,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1\nmine:IN05:0.5,MID:0\n# a comment\n"
        b"[lbwe]\nsoft:IN05-OUT05:attn:0.5,NOT MID::0\n",
        "\ufeffa:R,U,X,X+0.5,1,1,1,1,1,1,1,1\r\nb:NOT BASE:0.3\r\nno:1,2\r\n".encode(),
        b"MID,IN01-IN05:0.5;OUT3*2\n",
    ]
