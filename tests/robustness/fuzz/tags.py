"""A prompt, whatever stands in it: adapters' tags and those of aesthetic embeddings, with curves, windows, weights."""

from __future__ import annotations

import math

from lib_adapters.prompt.aesthetic_tag import parse as parse_aesthetic
from lib_adapters.prompt.tags import TAG_KEYS, parse, quote_name
from tests.support.input_bounds import Bound
from tests.support.prompt_checks import check_problems, check_prompt

BOUND = Bound(calls=10_000, calls_per_byte=400)
TOKENS = [
    b"<lora:", b"<lyco:", b"<aesthetic:", b">", b":", b"=", b",", b";", b"@", b"~", b"%", b'"', b'""', b"*", b"-",
    b"NOT ", b"IN05", b"MID", b"OUT", b"BASE", b"R", b"U", b"X+0.5", b"off", b"timestep", b"sigma", "σ".encode(),
    b"1e999", "٣".encode(), b"\xed\xa0\x80", b"IN05-OUT03:0.5", b"0@0,1@50%", b"slerp", b"text=", b"angle=",
    b"negative", b"steps=", *(f":{key}=".encode() for key in TAG_KEYS),
]  # fmt: skip


def target(data: bytes) -> None:
    prompt = data.decode("utf-8", "surrogateescape")
    check_prompt(prompt)
    for sign in ("<lora:", "<lyco:", "<aesthetic:"):
        check_aesthetic(prompt.replace(sign, "<aesthetic:"))
    tags = parse(f"<lora:{quote_name(prompt)}:0.5>").tags
    assert [tag.name for tag in tags] == ([prompt] if prompt.strip() else [])


def check_aesthetic(prompt: str) -> None:
    parsed = parse_aesthetic(prompt)
    check_problems(prompt, parsed)
    for tag in parsed.tags:
        assert tag.text in prompt
        assert [(again.name, again.options) for again in parse_aesthetic(tag.text).tags] == [(tag.name, tag.options)]
        assert math.isfinite(tag.options.weight + tag.options.angle)
        assert 0 <= tag.options.steps <= 1000
        assert 0 < tag.options.lr <= 1


def seeds() -> list[bytes]:
    return [
        text.encode()
        for text in (
            "a cat <lora:ink:0.8> on a mat <lyco:a/b:0.5:0.7:8>",
            '<lyco:"a: ""b"" > c":0.5:0.7:8:mode=live:off>',
            "<lora:n:0.5:ROUT:0.7>",
            "<lora:n:1:lbw=IN05-OUT03:0.5,MID:0:start=5:stop=50%:x=2>",
            "<lyco:n:lbwe=IN05-OUT05:attn:0.8,NOT MID::0:step=0.2-4sigma>",
            "<lyco:n:0@0,1@50%;0.5@1:hr=1@0,0@9:hrlbw=1,R,U,X,X+0.2,1,1,1,1,1,1,1>",
            "<lora:n:1:INALL,M00:0.3:dyn=timestep:hrdyn=4~0,8~20>",
            '<aesthetic:"a:b":0.9:steps=5:lr=0.0001:slerp:text="x > y":negative=no:angle=0.1> <aesthetic:n:slerp>',
        )
    ]
