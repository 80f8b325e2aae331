"""The stand-alone page without a browser: what it serves, what a press of its button gives, which port it takes."""

from __future__ import annotations

import errno
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("gradio")
from fastapi.testclient import TestClient

from lib_adapters.app import arguments as options
from lib_adapters.app import main
from lib_adapters.app.page import application, layout, server
from lib_adapters.app.page.image_worker import ImageWorker, WorkerResult
from lib_adapters.errors import AdapterError
from lib_adapters.hosts.diffusers.folder_resolver import FolderResolver
from lib_adapters.hosts.diffusers.generator import Generator, Settings

TAG = "<lyco:gold_lora:1>"
QUICK = Settings(steps=2, seed=5, guidance=2.5, size=(64, 64))


def given(out, *arguments):
    return main.parser().parse_args(["page", "--no-browser", "--out", str(out), *arguments])


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with ExitStack() as stack:
        yield TestClient(application.application(given(tmp_path_factory.mktemp("page")), stack, "http://127.0.0.1:1/"))


@pytest.fixture(scope="module")
def studio():
    with Generator.open(options.MODEL, options.device_of("cpu"), FolderResolver([options.ADAPTERS])) as opened:
        yield opened


@pytest.fixture
def painter(studio, tmp_path):
    used: list[Path] = []
    made = ImageWorker(studio, [options.ADAPTERS], tmp_path / "out", used.append)
    made.noted = used
    return made


def nothing(done, total):
    pass


def test_the_page_has_the_tab_and_starts_with_what_suits_the_model(client):
    text = client.get("/").text
    assert "lycoris-tab" in text
    assert "#page_prompt textarea" in text
    assert '"value":15' in text.replace(" ", "")  # steps
    assert '"elem_id":"page_width"' in text.replace(" ", "")
    assert layout.NEGATIVE_TAGS_LABEL in text
    assert "googleapis" not in text.split("gradio_config")[1].split("</script>")[0]


def test_every_file_that_the_page_asks_for_is_served(client):
    files = server.tab_files()
    assert next(iter(files)) == "style.css"
    assert list(files)[-1] == "lycoris_main.js"  # it starts at once, so everything else must be there
    for address in server.addresses(files):
        assert client.get(address.removeprefix(".")).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/lycoris/files/install.py",
        "/lycoris/files/..%2finstall.py",
        f"/file={server.PROJECT / 'install.py'}",
        "/file=install.py",
        "/lycoris/api/cards/../../../install.py",
    ],
)
def test_no_other_file_is_served(client, path):
    assert client.get(path).status_code in (403, 404)


def test_the_bundled_adapters_are_cards(client):
    client.post("/lycoris/api/refresh", json={})
    for _ in range(500):
        answer = client.get("/lycoris/api/cards").json()
        if not answer["progress"]["running"]:
            break
    assert answer["folders"] == ["Bundled", "aesthetic_embeddings"]
    assert answer["family"] == "sd1"
    assert "gold_lora" in {card["name"] for card in answer["cards"]}


def test_bundled_adapters_are_left_out_for_another_model(tmp_path):
    model, mine = tmp_path / "model", tmp_path / "mine"
    model.mkdir(), mine.mkdir(), (tmp_path / "Lora").mkdir()
    assert application.folders_of(model, [mine]) == [tmp_path / "Lora", mine]
    assert application.folders_of(options.MODEL, [mine])[0] == options.ADAPTERS
    with pytest.raises(AdapterError, match="no such folder"):
        application.folders_of(model, [tmp_path / "nowhere"])


def test_a_picture_is_drawn_saved_and_says_how(painter, tmp_path):
    steps: list[tuple[int, int]] = []
    shown = painter.generate(f"a red circle {TAG}", QUICK, False, lambda done, total: steps.append((done, total)))
    ((picture, title),) = shown.pictures
    assert (picture.size, title) == ((64, 64), "")
    assert steps == [(0, 2), (1, 2), (2, 2)]
    assert shown.lines[0].startswith("gold_lora: ")
    assert shown.problems == []
    with Image.open(tmp_path / "out" / "seed-5.png") as stored:
        assert TAG in stored.info["parameters"]
    assert picture.info["parameters"] == stored.info["parameters"]
    assert [path.stem for path in painter.noted] == ["gold_lora"]


def test_without_and_with_are_the_same_seed(painter):
    both = painter.generate(f"a red circle {TAG}", QUICK, True, nothing)
    assert [title for _, title in both.pictures] == ["without", "with"]
    (plain,) = painter.generate("a red circle ", QUICK, False, nothing).pictures
    assert both.pictures[0][0].tobytes() == plain[0].tobytes()
    assert both.pictures[1][0].tobytes() != plain[0].tobytes()
    assert len(painter.generate("a red circle", QUICK, True, nothing).pictures) == 1


def test_a_hypernetwork_is_compared_too(painter):
    both = painter.generate("a red circle <hypernet:dusk_hypernet:1>", QUICK, True, nothing)
    (plain,) = painter.generate("a red circle ", QUICK, False, nothing).pictures
    assert both.pictures[0][0].tobytes() == plain[0].tobytes()
    assert both.pictures[1][0].tobytes() != plain[0].tobytes()
    assert [path.stem for path in painter.noted] == ["dusk_hypernet"]


def test_an_adapter_that_is_not_there_is_said(painter):
    shown = painter.generate("a red circle <lyco:nobody:1>", QUICK, False, nothing)
    assert "no adapter is called 'nobody'" in shown.problems[0]
    assert painter.noted == []


def test_stop_ends_a_picture_and_not_the_next_one(painter):
    def press(done, total):
        if done == 1:
            painter.stop()

    stopped = painter.generate("a red circle", Settings(steps=50, size=(64, 64)), False, press)
    assert (stopped.pictures, stopped.problems) == ([], ["Stopped."])
    assert len(painter.generate("a red circle", QUICK, False, nothing).pictures) == 1


def test_new_files_are_found_after_a_rescan(painter, tmp_path):
    folder = tmp_path / "more"
    folder.mkdir()
    painter._folders = [folder]
    (folder / "late.safetensors").write_bytes((options.ADAPTERS / "gold_lora.safetensors").read_bytes())
    assert painter.generate("x <lyco:late:1>", QUICK, False, nothing).problems
    painter.rescan()
    assert not painter.generate("x <lyco:late:1>", QUICK, False, nothing).problems


def test_a_press_of_the_button(painter):
    def progress(done, desc, unit):
        assert unit == "steps"

    generate = layout._generate(painter)
    pictures, text = generate(f"a red circle {TAG}", "", True, False, 2, 2.5, 64, 64, 7, progress)
    assert len(pictures) == 2
    assert "Seed 7" in text
    assert "gold_lora: " in text
    _, text = generate("a red circle", "", False, False, 1, 2.5, 64, 64, -1, progress)
    assert "Seed -1" not in text


def test_the_box_for_the_negative_prompts_tags(painter, tmp_path):
    generate = layout._generate(painter)
    press = ("a red circle", f"blue {TAG}", True)
    rest = (2, 2.5, 64, 64, 7, lambda *_, **__: None)
    pictures, text = generate(*press, False, *rest)
    assert len(pictures) == 1
    assert "tags are plain words" in text
    both, text = generate(*press, True, *rest)
    assert [title for _, title in both] == ["without", "with"]
    assert "gold_lora: " in text
    assert "plain words" not in text
    assert [path.stem for path in painter.noted] == ["gold_lora"]
    (without, _), (drawn, _) = both
    assert without.tobytes() != drawn.tobytes() != pictures[0][0].tobytes()
    assert without.info["parameters"].split("\n")[1] == "Negative prompt: blue "
    with Image.open(tmp_path / "out" / "seed-7-3.png") as stored:
        assert stored.info["parameters"].endswith(", Negative tags: True")
        assert f"\nNegative prompt: blue {TAG}\n" in stored.info["parameters"]


def test_what_goes_wrong_is_said_on_the_page(painter, monkeypatch):
    monkeypatch.setattr(painter, "generate", lambda *_: (_ for _ in ()).throw(MemoryError))
    pictures, text = layout._generate(painter)("x", "", False, False, 2, 2.5, 64, 64, 7)
    assert pictures == []
    assert "There is not enough memory for this." in text


def test_the_report_escapes_what_it_says():
    text = layout.report_of(WorkerResult(lines=["<script>"], problems=["<img onerror=x>"]), "Seed 1")
    assert "<script>" not in text
    assert "&lt;img onerror=x&gt;" in text


def test_a_port_that_is_taken_is_passed_over():
    with server.listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with server.listen("127.0.0.1", port) as second:
            assert second.getsockname()[1] not in (0, port)
            assert server.address_of(second) == f"http://127.0.0.1:{second.getsockname()[1]}/"


def test_every_interface_is_shown_as_this_machine():
    with server.listen("0.0.0.0", 0) as listening:
        assert server.address_of(listening).startswith("http://127.0.0.1:")


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "Permission denied"), socket.gaierror(-2, "Name unknown")])
def test_a_port_that_cannot_be_had_is_one_sentence(monkeypatch, error):
    def refuse(*_):
        raise error

    monkeypatch.setattr(server, "_bound", refuse)
    with pytest.raises(AdapterError, match=r"^somewhere, port 80: .*\.$"):
        server.listen("somewhere", 80)


@pytest.mark.parametrize("word", ["65536", "http", "80.0", ""])
def test_what_is_no_port_is_refused(word, capsys):
    with pytest.raises(SystemExit):
        main.parser().parse_args(["page", "--port", word])
    assert "is no port" in capsys.readouterr().err


def test_without_gradio_there_is_one_sentence(monkeypatch, capsys, tmp_path):
    for name in [name for name in sys.modules if name.startswith("lib_adapters.app.page.") and "command" not in name]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("build", "server", "layout"):
        monkeypatch.delattr(f"lib_adapters.app.page.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main.main(["page", "--out", str(tmp_path)]) == 2
    assert "The page needs gradio" in capsys.readouterr().err


def test_a_project_without_the_scripts_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(server, "PROJECT", tmp_path)
    with pytest.raises(AdapterError, match=r"needs javascript/ and style\.css"):
        server.tab_files()
