"""python -m tests.robustness.fuzz [TARGET...] [--seconds N] [--keep FOLDER]

Each target for N seconds, led by the code that inputs reach (atheris over libFuzzer); without N, a minute. Prints how
many inputs were tried, how many features of the code they reached, and each input that does not hold.

    python -m tests.robustness.fuzz --list             what there is
    python -m tests.robustness.fuzz --again FILE TARGET    one input once more, with its traceback
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.robustness.fuzz.registry import NAMES, load

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Result:
    name: str
    inputs: int
    features: int
    failed: list[Path]
    log: str

    def line(self) -> str:
        return f"{self.name}: {self.inputs:,} inputs, {self.features:,} features, {len(self.failed)} failed"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.robustness.fuzz",
        description=__doc__.partition("\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"all, if none is named: {', '.join(NAMES)}")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--keep", type=Path, help="a folder for what was found, to go on from the next time")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--again", type=Path, metavar="FILE")
    given = parser.parse_args(arguments)
    if unknown := set(given.targets) - NAMES.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if given.list:
        print("\n".join(f"{name}: {what}" for name, what in NAMES.items()))
        return 0
    if given.again:
        load(given.targets[0]).check(given.again.read_bytes())
        return 0
    work = given.keep or Path(tempfile.mkdtemp(prefix="lycoris-fuzz-"))
    results = [tell(result) for result in guided(given.targets or NAMES, given.seconds, work)]
    return int(any(result.failed for result in results))


def guided(names: Iterable[str], seconds: int, work: Path) -> Iterator[Result]:
    """Each as soon as its time is over."""
    before = {*work.glob("*/failed-*")}
    command = [sys.executable, "-m", "tests.robustness.fuzz.libfuzzer", str(work), str(seconds), *names]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        for line in process.stdout or ():
            if line.split()[:1] and line.split()[0] in NAMES:
                yield result(*line.split(), work / line.split()[0], before)
    if process.returncode:
        raise SystemExit(f"It did not run: {' '.join(command)}")


def result(name: str, code: str, place: Path, before: set[Path]) -> Result:
    log = (place / "log").read_text(errors="replace")
    failed = sorted({*place.glob("failed-*")} - before)
    if int(code) and not failed:
        raise SystemExit(f"{name} did not run:\n{log[-3000:]}")
    return Result(name, largest(r"number_of_executed_units:\s*(\d+)", log), largest(r"\bft: (\d+)", log), failed, log)


def largest(pattern: str, log: str) -> int:
    return max(map(int, re.findall(pattern, log)), default=0)


def tell(result: Result) -> Result:
    print(result.line(), flush=True)
    for path in result.failed:
        print(f"  {path}\n{result.log[-2500:]}", flush=True)
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
