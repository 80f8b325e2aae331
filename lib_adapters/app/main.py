"""The command line: its commands, and the report of errors.

Errors are one sentence and exit code 2; Ctrl-C is 130.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from lib_adapters.app import convert, create_aesthetic, generate, inspect, listing, merge, verify
from lib_adapters.app.errors import describe_error
from lib_adapters.app.page import command as page

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
