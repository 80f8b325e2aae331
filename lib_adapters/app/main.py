"""The command line: which commands there are, and how anything that goes wrong is said.

Errors are one sentence and exit code 2; Ctrl-C is 130.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import torch

from lib_adapters.app import convert, create_aesthetic, generate, inspect, listing, merge, verify
from lib_adapters.app.page import command as page
from lib_adapters.errors import AdapterError

COMMANDS = (generate, page, inspect, listing, merge, convert, verify, create_aesthetic)


class Parser(argparse.ArgumentParser):
    """argparse prints the whole usage before the one sentence that matters."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help shows what it takes)\n")


def parser() -> Parser:
    top = Parser(
        prog="python -m lib_adapters", description="Adapters for Stable Diffusion: draw, look, merge, convert."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for command in COMMANDS:
        command.add(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console that lacks a letter shows "?", and the command goes on
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except BrokenPipeError:  # `... | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except BaseException as error:
        if os.environ.get("LIB_ADAPTERS_DEBUG") or isinstance(error, SystemExit):
            raise
        sentence, code = describe_error(error)
        print(sentence, file=sys.stderr)
        return code


def describe_error(error: BaseException) -> tuple[str, int]:
    """One sentence and the exit code; a user is never shown a traceback."""
    if isinstance(error, KeyboardInterrupt):
        return "Stopped.", 130
    if isinstance(error, AdapterError):
        return str(error), 2
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return "There is not enough memory for this.", 2
    if isinstance(error, OSError):
        return f"{error.filename or 'The system'}: {error.strerror or error}.", 2
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"This needs the package {package}, which is not installed here (pip install {package}).", 2
    reason = " ".join(str(error).split())[:300]
    return f"Unexpected {type(error).__name__}: {reason} (LIB_ADAPTERS_DEBUG=1 shows where).", 2
