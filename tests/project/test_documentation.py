"""Runs every code block of the documentation, and checks its links, file names, tag keys, settings and routes.

A fenced block has one of the languages in LANGUAGES. `python` blocks of a page run in order in one namespace; `sh`
blocks run line by line in a folder with a model and adapters; each line of a `prompt` block parses without a warning.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks.__main__ import _parser as benchmarks_parser
from lib_adapters.app import main as app
from lib_adapters.prompt import aesthetic_tag
from lib_adapters.prompt.block_presets import BUILT_IN, parse_presets
from lib_adapters.prompt.block_weights import resolve_block_weights
from lib_adapters.prompt.tags import TAG_KEYS, TAG_KINDS, parse
from tests.support.sample_adapters import adapter_file, layers

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *sorted(ROOT.glob("docs/*.md"))]
LANGUAGES = ("python", "sh", "prompt", "presets", "json")
MODEL, CLIP = "stable-diffusion-v1-5", "clip-vit-large-patch14"  # names of folders in the examples
BUNDLED_CLIP = ROOT / "lib_adapters" / "demo" / "model" / "clip"
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE_NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)*\.(?:py|js|mjs|css|md|toml)|\.ci/\w+")
TEST_NAME = re.compile(r"test_\w+")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int  # of the opening fence
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    for match in FENCE.finditer(text):
        yield Block(page, text.count("\n", 0, match.start()) + 1, match[1].strip(), match[2])


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def of_language(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def prose_of(page: Path) -> str:
    return FENCE.sub("", page.read_text("utf-8"))


@pytest.fixture(scope="module")
def sample_folder(sd1_folder, tmp_path_factory) -> Path:
    """The files that the examples name."""
    folder = tmp_path_factory.mktemp("documentation")
    shutil.copytree(sd1_folder, folder / MODEL)  # adapters are looked for beside the model
    (folder / CLIP).symlink_to(BUNDLED_CLIP)
    (folder / "lora").mkdir()
    (folder / "photos").mkdir()
    pipe = StableDiffusionPipeline.from_pretrained(folder / MODEL)
    for seed, name in enumerate(("ink", "smoke")):
        file = folder / "lora" / f"{name}.safetensors"
        text = adapter_file(folder / "text.safetensors", layers(pipe.text_encoder), prefix="lora_te_", seed=seed)
        adapter_file(file, layers(pipe.unet), seed=seed)
        save_file({**load_file(file), **load_file(text)}, file)
        text.unlink()
        (folder / file.name).symlink_to(file)
    (folder / "notes.txt").write_text("not an adapter", "utf-8")
    for number in range(2):
        Image.new("RGB", (64, 48), (90 * number, 80, 200)).save(folder / "photos" / f"{number}.png")
    return folder


@pytest.fixture
def place(sample_folder, tmp_path, monkeypatch) -> Path:
    """A folder of its own with these files, as the current directory."""
    for entry in sample_folder.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_block_has_a_known_language():
    assert {block.language for block in BLOCKS} == set(LANGUAGES)
    indented = [(page.name, line) for page in PAGES for line in prose_of(page).split("\n") if line.startswith(" " * 4)]
    assert not indented


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("page", sorted({block.page for block in of_language("python")}), ids=lambda page: page.name)
def test_python_blocks_run(page):
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in of_language("python"):
        if block.page == page:
            exec(compile("\n" * block.line + block.text, str(page), "exec"), namespace)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("block", of_language("sh"), ids=str)
def test_shell_blocks_run(block, place, monkeypatch, capsys):
    codes = [run_line(shlex.split(line), monkeypatch) for line in block.text.splitlines() if line]
    assert set(codes) == {0}
    assert not re.search("<[a-z]+:", capsys.readouterr().err)  # no warning about a tag


def run_line(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run one command in this process and return its exit code."""
    if words[:3] == ["python", "-m", "lib_adapters"]:
        if words[3] == "page":
            monkeypatch.setattr("lib_adapters.app.page.server.serve", lambda *_: None)
        return app.main(words[3:])
    if words[:2] == ["python", "install.py"]:
        return run_install(words[2:], monkeypatch)
    assert words[:3] == ["python", "-m", "benchmarks"], f"no rule to run {words}"
    benchmarks_parser().parse_args(words[3:])
    return 0


def run_install(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run install.py, which installs nothing and starts nothing; check the commands that it would start."""
    spec = importlib.util.spec_from_file_location("install_script", ROOT / "install.py")
    install = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(install)
    commands: list[list[str]] = []
    monkeypatch.setattr(install, "prepare_environment", lambda kind: "python")
    monkeypatch.setattr(install, "install_oracles", lambda python: None)
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "call", lambda command, **_: commands.append(command) or 0)
        code = install.main(words)
    for _, _, module, *arguments in commands:
        if module == "lib_adapters":
            app.parser().parse_args(arguments)
        assert all((ROOT / one).exists() for one in arguments if one.startswith("tests/"))
    assert commands
    return int(code)


@pytest.mark.parametrize("block", of_language("prompt"), ids=str)
def test_prompt_blocks_parse_without_warnings(block):
    for line in filter(None, block.text.splitlines()):
        rest = aesthetic_tag.parse(line)
        parsed = parse(rest.text, (*TAG_KINDS, "hypernet"))
        assert rest.tags or parsed.tags, line
        assert (*rest.problems, *parsed.problems) == (), line
        for options in (options for tag in parsed.tags for options in (tag.for_pass(False), tag.for_pass(True))):
            assert options.notes == (), line
            resolve_block_weights(options.spec, BUILT_IN, "seed")  # raises BadTag


@pytest.mark.parametrize("block", of_language("presets"), ids=str)
def test_preset_blocks_are_read_without_problems(block):
    presets, problems = parse_presets(block.text)
    assert not problems
    assert {**presets.blocks, **presets.elements}


@pytest.mark.parametrize("block", of_language("json"), ids=str)
def test_json_blocks_parse(block):
    json.loads(block.text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    links = [link for link in LINK.findall(prose_of(page)) if "://" not in link]
    assert [link for link in links if not is_target(page, link)] == []


def is_target(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    return target.is_file() and (not anchor or anchor in anchors_of(target))


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of the headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.*)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def project() -> dict[str, list[Path]]:
    """The files of the project by their names."""
    folders = ("lib_adapters", "tests", "benchmarks", "docs", "javascript", "scripts", ".ci")
    files = [*ROOT.glob("*.*"), *(file for folder in folders for file in (ROOT / folder).rglob("*") if file.is_file())]
    found: dict[str, list[Path]] = {}
    for file in files:
        found.setdefault(file.name, []).append(file)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_and_tests_exist(page, project):
    tests = "\n".join(file.read_text("utf-8") for files in project.values() for file in files if is_test(file))
    words = [span.split()[0].rstrip(":") for span in SPAN.findall(prose_of(page)) if span.strip()]
    files = [word for word in words if FILE_NAME.fullmatch(word)]
    functions = [word for word in words if TEST_NAME.fullmatch(word)]
    missing = [word for word in files if not any(ends_with(file, word) for file in project.get(Path(word).name, ()))]
    missing += [word for word in functions if f"def {word}(" not in tests]
    assert missing == []


def is_test(file: Path) -> bool:
    return file.suffix == ".py" and file.name.startswith("test_")


def ends_with(file: Path, name: str) -> bool:
    return f"/{file.relative_to(ROOT).as_posix()}".endswith(f"/{name}")


def test_every_key_of_a_tag_is_documented():
    text = (ROOT / "docs" / "tags.md").read_text("utf-8")
    assert [key for key in TAG_KEYS if f"`{key}=`" not in text and f"`{key}`" not in text] == []


def test_every_command_is_documented():
    text = (ROOT / "docs" / "command-line.md").read_text("utf-8")
    commands = app.parser()._subparsers._group_actions[0].choices
    assert [name for name in commands if f"python -m lib_adapters {name} " not in text] == []


def rows_of(page: str, columns: int) -> list[list[str]]:
    """Return the rows of all tables with so many columns; a `|` in a code span is escaped."""
    lines = [line for line in (ROOT / page).read_text("utf-8").splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in rows if len(row) == columns]


def test_settings_are_documented_with_their_defaults(webui):
    options = {key: one for key, one in webui.shared.options_templates.items() if key.startswith("lycoris_")}
    words = {True: "on", False: "off"}
    expected = {key: [one.label, words.get(one.default, str(one.default))] for key, one in options.items()}
    documented = {row[1].strip("`"): [row[0].replace("`", ""), row[2]] for row in rows_of("docs/tab.md", 4)}
    assert {key: row for key, row in documented.items() if key.startswith("lycoris_")} == expected


def test_documented_routes_exist(webui):
    paths = {*webui.app.routes, *(route.path for router in webui.app.routers for route in router.routes)}
    spans = SPAN.findall((ROOT / "docs" / "tab.md").read_text("utf-8"))
    named = {word for span in spans for word in span.split() if re.match("/(lycoris|sdapi)/", word)}
    assert named
    assert named - paths == set()
