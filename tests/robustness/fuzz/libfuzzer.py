"""Run targets under libFuzzer; `python -m tests.robustness.fuzz` starts this program.

    python -m tests.robustness.fuzz.libfuzzer FOLDER SECONDS TARGET...

Each runs in a process of its own, split off from this one when everything is imported, because libFuzzer never comes
back. Only lib_adapters is instrumented: what leads the search is our code, and torch would be slow.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import atheris
import torch

SLACK = 8  # each branch of instrumented code is a call
torch.set_num_threads(1)  # a process that is split off has no others
with atheris.instrument_imports(include=["lib_adapters"], enable_loader_override=False):
    from tests.robustness.fuzz.inputs import KEPT, LONGEST
    from tests.robustness.fuzz.registry import Target, load

    TARGETS = [load(name, SLACK) for name in sys.argv[3:]]

MEMORY = 4096  # MB that a process may take: torch alone needs half a GB
LOG = "log"


def main(work: Path, seconds: int) -> None:
    for target in TARGETS:
        place = work / target.name
        place.mkdir(parents=True, exist_ok=True)
        child = os.fork()
        if not child:
            search(target, place, seconds)
        _, status = os.waitpid(child, 0)
        print(target.name, os.waitstatus_to_exitcode(status), flush=True)


def search(target: Target, place: Path, seconds: int) -> None:
    log = os.open(place / LOG, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    corpus = place / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, data in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(data)
    target.warm()
    kept = KEPT / target.name
    folders = [str(folder) for folder in (corpus, kept) if folder.is_dir()]
    atheris.Setup([sys.argv[0], *options(target, place, seconds), *folders], target.check)
    atheris.Fuzz()


def options(target: Target, place: Path, seconds: int) -> list[str]:
    found = [
        f"-max_total_time={seconds}", f"-max_len={LONGEST}", f"-artifact_prefix={place}/failed-", "-timeout=60",
        f"-rss_limit_mb={MEMORY}", "-print_final_stats=1", "-seed=1", "-len_control=20",
    ]  # fmt: skip
    if target.tokens:
        words = place / "words"
        words.write_text("".join(f'"{quoted(token)}"\n' for token in target.tokens))
        found.append(f"-dict={words}")
    return found


def quoted(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
