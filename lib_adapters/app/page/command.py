"""`page`: generate images in a browser, with the bundled model or another folder."""

from __future__ import annotations

import argparse
import re
from contextlib import ExitStack
from pathlib import Path

from lib_adapters.app import arguments
from lib_adapters.errors import AdapterError


def add(commands: arguments.Commands) -> None:
    command = commands.add_parser("page", help="draw in a browser", description=__doc__)
    arguments.add_model(command)
    arguments.add_adapters(command)
    command.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default 127.0.0.1)")
    command.add_argument("--port", type=port_number, default=7860, help="or the next free one (default 7860)")
    command.add_argument("--no-browser", action="store_true", help="do not open a browser")
    command.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="for pictures (default: out)")
    command.set_defaults(run=run, negative="", steps=None, seed=1, guidance=None, size=None, negative_tags=False)


def port_number(word: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", word) or int(word) > 65535:
        raise argparse.ArgumentTypeError(f"{word!r} is no port; it is a number from 0 to 65535")
    return int(word)


def run(args: argparse.Namespace) -> int:
    try:
        from lib_adapters.app.page import application, server  # gradio costs seconds, and no other command needs it
    except ModuleNotFoundError as error:
        raise AdapterError(f"The page needs {error.name}; `python install.py demo` installs what it needs.") from error
    with ExitStack() as stack:
        listening = stack.enter_context(server.listen(args.host, args.port))
        app = application.application(args, stack, server.address_of(listening))
        server.serve(app, listening, not args.no_browser)
    return 0
