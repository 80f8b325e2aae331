"""CLIP's byte-pair tokenizer over a small vocabulary: each caption word is one token, any other text falls to bytes."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
TOKENS = 77
Word = tuple[str, ...]


def byte_characters() -> list[str]:
    """GPT-2's printable letter for each byte, in the order in which CLIP numbers them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + k) for k in range(len(hidden))]


def merged(word: Word, pair: tuple[str, str]) -> Word:
    """The word with each occurrence of the pair joined."""
    out: list[str] = []
    for piece in word:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return tuple(out)


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair encoding (Sennrich et al. 2016), run until each word is one token."""
    pieces: list[Word] = [(*word[:-1], word[-1] + "</w>") for word in sorted(set(words))]
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for word in pieces for pair in pairwise(word))
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = [merged(word, best) for word in pieces]


def write_tokenizer(folder: Path, captions: list[str]) -> None:
    """The files of a `CLIPTokenizer` whose vocabulary is the words of these captions."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = learn_merges([word for caption in captions for word in caption.split()])
    letters = byte_characters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    vocabulary = {token: k for k, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    names = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    (folder / "special_tokens_map.json").write_text(json.dumps(names, indent=2), encoding="utf-8")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, "do_lower_case": True}
    text = json.dumps({**settings, "errors": "replace", "add_prefix_space": False, **names}, indent=2)
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def open_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer that `write_tokenizer` wrote."""
    return CLIPTokenizer.from_pretrained(str(folder))
