"""Inputs for a target: those it starts from, those kept in the repository, and random changes of both."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.robustness.fuzz.registry import Target

KEPT = Path(__file__).parent / "corpus"
LONGEST = 4096


def kept(target: Target) -> list[bytes]:
    return [path.read_bytes() for path in sorted((KEPT / target.name).glob("*"))]


def changed(target: Target, count: int, seed: int) -> Iterator[bytes]:
    """The same ones for the same seed."""
    chance = random.Random(f"{target.name} {seed}")
    start = [*target.seeds(), *kept(target)]
    for _ in range(count):
        if target.decides and chance.random() < 0.5:
            yield chance.randbytes(chance.randrange(1, 300))
        else:
            yield mutated(chance.choice(start), start, target.tokens, chance)


def mutated(data: bytes, others: Sequence[bytes], tokens: Sequence[bytes], chance: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 3, 6])):
        at = chance.randrange(len(found) + 1)
        kind = chance.randrange(7)
        if kind == 0 and found:
            found[at % len(found)] = chance.randrange(256)
        elif kind == 1 and found:
            found[at % len(found)] ^= 1 << chance.randrange(8)
        elif kind == 2:
            del found[at : at + chance.choice([1, 2, 8, 64, len(found)])]
        elif kind == 3:
            found[at:at] = chance.randbytes(chance.choice([1, 2, 8]))
        elif kind == 4:
            token = chance.choice(tokens) if tokens else b"\xff"
            found[at : at + chance.choice([0, len(token)])] = token
        elif kind == 5:
            found[at:at] = found[at : at + chance.randrange(1, 40)] * chance.choice([1, 2, 30])
        else:
            other = chance.choice(others)
            found[at:] = other[chance.randrange(len(other) + 1) :]
    return bytes(found[:LONGEST])
