"""Which file a tag means: names that a prompt cannot carry, several files of one name, and what pasting finds."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_adapters.files.adapter import open_adapter
from lib_adapters.hosts.webui import processing
from lib_adapters.hosts.webui.name_resolver import NameResolver
from lib_adapters.library.file_names import escape_name
from lib_adapters.prompt.tags import quote_name
from tests.fake_webui import extra_networks
from tests.fake_webui.processing import strip_comments
from tests.fake_webui.sample_files import put


def said(job, text):
    return any(text in line for line in job.comments)


def card_of(webui, name):
    """The only card, as the page gets it."""
    catalogue = webui.runtime.library_backend.library
    catalogue.start()
    catalogue.wait()
    (card,) = [card for card in map(json.loads, catalogue.changes_since(0).cards) if card["file"].startswith(name)]
    return card


SIGNS = [*'<>#:"&|\\%?*=,;\t\n\r \x01\x7f\xa0é墨\u2028', "\udcff", "\ud83d", "🎨", "AND", " AND ", '":', "><", "%3E"]


def carried_by_the_host(prompt):
    """What reaches the networks of the prompt, and what is left of it."""
    text, data = extra_networks.parse_prompt(strip_comments(prompt))
    assert len(processing.parse_params("lyco", data["lyco"]).tags) == 1
    return text, processing.parse_params("lyco", data["lyco"]).tags[0]


def test_the_tag_that_a_card_writes_reaches_its_file(webui):
    """Whatever the host makes of a prompt: it ends tags at ">", strips comments, and splits values at ":"."""
    folder, tried = webui.folder / "LyCORIS", set()
    for name in [place.format(sign) for sign in SIGNS for place in ("{}b", "a{}b", "a{}")]:
        with contextlib.suppress(OSError, UnicodeError):  # no file here can have this name
            (folder / f"{name}.safetensors").write_bytes(b"")
            tried.add(name)
    assert len(tried) > 70
    for path in webui.runtime.resolver.files():
        text, tag = carried_by_the_host(f"x <lyco:{quote_name(webui.runtime.resolver.shortest_name(path))}:0.5>")
        assert (text, tag.te) == ("x ", 0.5)
        assert webui.runtime.resolver.candidates("lyco", tag.name)[0] == path


@pytest.mark.parametrize("name", ["a>b", "style #2", "Tom AND Jerry"])
def test_a_picture_is_drawn_with_such_a_name(webui, name):
    put(webui, name)
    job = webui.draw(f"x <lyco:{escape_name(name)}:0.5>")
    assert said(job, "15 of 15 layers")
    assert job.encoded_texts[0] == ["x "]


@pytest.mark.parametrize("name", ["a>b", "style #2", "<b>", "a\nb", "bad\udcff"])
def test_a_card_knows_how_a_prompt_carries_its_name(webui, name):
    plain = put(webui, "plain").path
    plain.rename(plain.with_name(f"{name}.safetensors"))
    card = card_of(webui, name[0])
    assert card["tag"] == escape_name(name)
    assert card["name"] == name.encode("utf-8", "replace").decode()
    assert said(webui.picture(f"<lyco:{card['tag']}:1>"), "15 of 15 layers")


def test_a_name_that_a_prompt_carries_is_written_as_it_is(webui):
    put(webui, "My%20Lora=(v1.0)")
    assert "tag" not in card_of(webui, "My")
    assert said(webui.picture("<lyco:My%20Lora=(v1.0):1>"), "15 of 15 layers")


def test_a_tag_that_the_host_has_cut_is_explained(webui):
    put(webui, "a>b")
    assert said(webui.draw('x <lyco:"a>b":1>'), "write %3E instead of")


def test_a_default_adapter_of_such_a_name(webui):
    put(webui, "a>b")
    webui.shared.opts.lycoris_default = "a>b"
    assert webui.draw("x").all_prompts == ["x<lyco:a%3Eb:0.5>"]


class Builtin:
    """`process_network_files` of the built-in Lora restated: of each name the last file of the walk."""

    def __init__(self, *folders):
        import re

        def natural(text):
            return [int(part) if part.isdigit() else part.lower() for part in re.split("([0-9]+)", str(text))]

        self.files = {}
        for folder in folders:
            for place in sorted({path.parent for path in folder.rglob("*.*")}, key=natural):
                for path in sorted(place.iterdir(), key=lambda one: natural(one.name)):
                    if path.suffix in (".pt", ".ckpt", ".safetensors"):
                        self.files[path.stem] = path


PLACES = [
    ("Lora/a/ink", "Lora/b/ink"),
    ("Lora/b/ink", "Lora/ink"),
    ("Lora/v2/ink", "Lora/v10/ink"),
    ("Lora/A/ink", "Lora/b/ink"),
    ("Lora/z/ink", "LyCORIS/ink"),
    ("Lora/ink", "LyCORIS/a/ink", "LyCORIS/b/ink"),
]


@pytest.mark.parametrize("places", PLACES, ids="-".join)
def test_of_two_files_of_one_name_the_builtins_is_taken(webui, places):
    for place in places:
        (webui.folder / place).parent.mkdir(parents=True, exist_ok=True)
        (webui.folder / f"{place}.safetensors").write_bytes(b"")
    taken = Builtin(webui.folder / "Lora", webui.folder / "LyCORIS").files["ink"]
    assert [webui.runtime.resolver.candidates(kind, "ink")[0] for kind in ("lora", "lyco")] == [taken, taken]


@pytest.mark.parametrize(("places", "kind"), [(PLACES[0], "lora"), (PLACES[-1], "lora"), (PLACES[-1], "lyco")])
def test_the_choice_among_files_of_one_name_is_drawn_and_told(webui, places, kind):
    for number, place in enumerate(places, 1):
        put(webui, "ink", str(Path(place).parent), seed=number)
    taken = Builtin(webui.folder / "Lora", webui.folder / "LyCORIS").files["ink"]
    job = webui.picture(f"<{kind}:ink:0.5>")
    assert webui.runtime.resolver.resolve(kind, "ink").value.path == taken
    assert said(
        job, f"{len(places)} adapters are named 'ink': using <{kind}:{webui.runtime.resolver.shortest_name(taken)}:1>."
    )
    for path in webui.runtime.resolver.files():
        name = webui.runtime.resolver.shortest_name(path)
        alone = webui.picture(f"<{kind}:{name}:0.5>")
        assert not said(alone, "are named")
        assert torch.equal(alone.image, job.image) is (path == taken)
        assert path == taken or said(job, f"<{kind}:{name}:1>")


def test_a_broken_file_is_passed_over_for_a_sound_one_of_its_name(webui):
    put(webui, "ink", "Lora/a")
    cut(put(webui, "ink", "Lora/b").path)
    job = webui.picture("<lora:ink>")
    assert said(job, "15 of 15 layers")
    assert said(job, "Skipped b/ink.safetensors: it")


def test_where_all_files_of_a_name_are_broken_the_reason_is_told(webui):
    cut(put(webui, "ink", "Lora/a").path), cut(put(webui, "ink", "Lora/b").path)
    assert said(webui.picture("<lora:ink>"), "ink.safetensors")


def test_of_two_trainers_names_none_is_taken_unless_one_file_is_broken(webui):
    """The built-in draws with neither: they are different adapters."""
    paths = [put(webui, name, seed=len(name)).path for name in ("one", "three")]
    for path in paths:
        save_file(load_file(path), path, metadata={"ss_output_name": "last"})
    assert said(webui.picture("<lora:last:1>"), "write which one: <lora:three:1>, <lora:one:1>")
    cut(paths[0])
    assert said(webui.picture("<lora:last:1>"), "three: 15 of 15")


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def paste(webui, prompt, hashes):
    pasted = {"Prompt": prompt, "Lora hashes": hashes}
    webui.call("infotext_pasted", "", pasted)
    return pasted["Prompt"]


def stored(path, short="abcdef012345"):
    save_file(load_file(path), path, metadata={"sshs_model_hash": short + "0" * 52})


def test_a_hash_never_finds_a_file_that_was_cut_off(webui):
    whole, copy = put(webui, "ink", "Lora").path, put(webui, "ink part", "Lora").path
    stored(whole), stored(copy), cut(copy)
    assert paste(webui, "<lora:old:0.5>", "old: abcdef012345") == "<lora:ink:0.5>"
    whole.unlink()
    assert paste(webui, "<lora:old:0.5>", "old: abcdef012345") == "<lora:old:0.5>"


def test_a_broken_file_that_has_the_name_gives_way_to_the_renamed_sound_one(webui):
    stored(put(webui, "renamed", "Lora").path), cut(put(webui, "ink", "Lora").path)
    assert paste(webui, "<lora:ink:0.5>", "ink: abcdef012345") == "<lora:renamed:0.5>"


@pytest.mark.parametrize("header", [True, False])
def test_of_two_files_of_one_name_the_pasted_hash_decides(webui, header):
    first = put(webui, "ink", "Lora/a", seed=1)
    if header:
        stored(first.path)
    put(webui, "ink", "Lora/b", seed=2)
    short = webui.runtime.hashes.short_hash(open_adapter(first.path))
    assert paste(webui, "<lora:ink:0.5>", f"ink: {short}") == "<lora:a/ink:0.5>"
    assert paste(webui, "<lora:ink:0.5>", "ink: 000000000000") == "<lora:ink:0.5>"
    assert paste(webui, "<lora:ink:0.5>", "ink: e3b0c44298fc") == "<lora:ink:0.5>"


def test_a_pasted_name_between_quotes_is_replaced_wherever_it_ends(webui):
    stored(put(webui, "ink", "Lora").path)
    assert paste(webui, '<lora:"a: b" :0.5:te=1>', "a b: abcdef012345") == "<lora:ink:0.5:te=1>"


def test_files_whose_names_differ_only_as_they_are_carried(tmp_path):
    for name in ("a>b", "a%3Eb"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"")
    names = NameResolver(lambda: {"lyco": [tmp_path]}, lambda path: None, open_adapter)
    assert [path.stem for path in names.candidates("lyco", "a%3Eb")] == ["a>b"]
    assert [path.stem for path in names.candidates("lyco", "a%253Eb")] == ["a%3Eb"]
    (tmp_path / "a>b.safetensors").unlink()
    names.rescan()
    assert [path.stem for path in names.candidates("lyco", "a%3Eb")] == ["a%3Eb"]
