"""Nothing is ever fetched: not by any module, not while everything is done once, not by the page in a browser."""

from __future__ import annotations

import ast
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import no_network

ROOT = Path(__file__).parents[2]
TOOLS = {
    "aiohttp", "asyncio", "ftplib", "gradio_client", "http", "httpcore", "httplib2", "httpx", "huggingface_hub",
    "imaplib", "nntplib", "poplib", "pycurl", "requests", "smtplib", "socketserver", "ssl", "subprocess", "telnetlib",
    "urllib.request", "urllib3", "websocket", "websockets", "xmlrpc",
}  # fmt: skip
FETCHING = ("hf_hub_download", "snapshot_download", "load_state_dict_from_url", "torch.hub", "urlopen", "urlretrieve")
LISTENING = "lib_adapters/app/page/server.py"  # the only one that needs sockets: others come to it
ALLOWED = {LISTENING: {"socket", "webbrowser", "uvicorn"}}
EVERYTHING = """
import importlib, json, pkgutil, sys
from contextlib import ExitStack
from pathlib import Path

tried = []
def deny(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"):
        tried.append(event + " " + str(arguments[:2]))
        raise OSError("nothing may be reached")
sys.addaudithook(deny)

import lib_adapters
found = pkgutil.walk_packages(lib_adapters.__path__, "lib_adapters.")
names = [one.name for one in found if "__main__" not in one.name]
for name in names:
    importlib.import_module(name)
done = [f"{len(names)} modules"]

from lib_adapters.app import arguments, main
from lib_adapters.app.page import application
out = Path(sys.argv[1])
tag = "a red circle <lyco:gold_lora:1> <lyco:nobody:1>"
for command in (
    ["generate", tag, "--steps", "2", "--size", "64", "--out", str(out / "pictures")],
    ["list", str(arguments.ADAPTERS)],
    ["inspect", str(next(arguments.ADAPTERS.glob("*.safetensors")))],
    ["merge", "<lyco:gold_lora:1>", "--out", str(out / "merged")],
):
    try:
        main.main(command)
    except SystemExit as end:
        assert not end.code, command
    done.append(command[0])
with ExitStack() as stack:
    given = main.parser().parse_args(["page", "--no-browser", "--out", str(out)])
    app = application.application(given, stack, "http://127.0.0.1:1/")
    from fastapi.testclient import TestClient
    client = TestClient(app)
    ours = ["/lycoris/api/" + end for end in ("cards", "presets", "report")]
    for path in ("/", "/config", "/info", "/theme.css", *ours):
        assert client.get(path).status_code == 200, path
        done.append(path)
print(json.dumps([tried, done]))
"""


def sources():
    return sorted([*ROOT.glob("lib_adapters/**/*.py"), *ROOT.glob("scripts/*.py")])


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_no_module_can_fetch_anything(tried):
    files = tried("security", "modules read for ways to the network")
    found = []
    for path in sources():
        place, text = str(path.relative_to(ROOT)), path.read_text("utf-8")
        files.add()
        for name in imported(ast.parse(text)):
            starts = {name, name.split(".")[0], ".".join(name.split(".")[:2])}
            if starts & (TOOLS | {"socket", "webbrowser", "uvicorn"}) - ALLOWED.get(place, set()):
                found.append(f"{place} imports {name}")
        found += [f"{place} has {word}" for word in FETCHING if word in text]
        local = text.count("local_files_only=True")
        if "/demo/" not in place and text.count(".from_pretrained(") > local:
            found.append(f"{place} might fetch a model")
    assert found == []


def test_the_pages_files_name_no_other_address(tried):
    files = tried("security", "modules read for ways to the network")
    for path in [*ROOT.glob("javascript/*.js"), ROOT / "style.css"]:
        files.add()
        text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.findall(r"(?:https?:)?//[\w.-]+\.\w+|\bws://|@import|url\(\s*['\"]?(?!data:)[/h]", text), (
            path.name
        )
        assert not re.findall(r"\b(?:sendBeacon|WebSocket|EventSource|XMLHttpRequest|importScripts)\b", text), path.name


@pytest.mark.slow
def test_everything_is_done_without_the_network(tmp_path, tried):
    """In a process that is refused every address, this machine's own among them."""
    pytest.importorskip("gradio")
    pytest.importorskip("diffusers")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "GRADIO_"))}
    command = [sys.executable, "-W", "ignore", "-c", EVERYTHING, str(tmp_path)]
    paths = {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment | paths, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    attempts, steps = json.loads(done.stdout.splitlines()[-1])
    tried("security", "things done without a network").add(len(steps))
    assert (attempts, len(steps)) == ([], 12)


@pytest.mark.parametrize("host", ["example.org", "192.0.2.1", "2001:db8::1", "10.0.0.1", "localhost.example"])
def test_a_test_that_speaks_to_another_machine_is_red(host):
    with pytest.raises(no_network.SpokeToAnother):
        socket.create_connection((host, 80), timeout=1)
    assert no_network.taken() != []


def test_this_machine_may_be_spoken_to():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        for name in ("localhost", "127.0.0.1"):
            socket.create_connection((name, listening.getsockname()[1]), timeout=5).close()
    assert no_network.taken() == []
