"""The user's file of presets: what is saved is read back, and what others wrote into it stays."""

from __future__ import annotations

import os
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib_adapters.errors import AdapterError
from lib_adapters.library.preset_file import PresetFile, PresetSource
from lib_adapters.prompt.block_presets import BUILT_IN
from lib_adapters.prompt.block_weights import Presets

LIST = "1,0,0,0,1,1,1,0,0,0,0,0"
NAMES = st.text(min_size=1, max_size=12).map(str.strip)


@pytest.fixture
def file(tmp_path):
    return PresetFile(tmp_path / "deep" / "presets.txt")


def own(**blocks: str) -> Presets:
    return Presets(blocks)


def test_without_a_file_there_are_the_built_in_ones(file):
    listing = file.listing()
    assert (listing.all_presets, listing.own_presets, listing.problems) == (BUILT_IN, Presets(), ())
    assert not file.path.exists()


def test_what_is_saved_wins_over_what_is_built_in(file):
    file.save(Presets({"OUTS": LIST, "mine": "R,U,X,X+0.1,0,0,0,0,0,0,0,0"}, {"soft": "IN05:attn:0.5\nMID:ff:0"}))
    listing = file.listing()
    assert listing.all_presets.blocks["OUTS"] == LIST
    assert listing.all_presets.blocks["ALL"] == BUILT_IN.blocks["ALL"]
    assert listing.own_presets.elements == {"soft": "IN05:attn:0.5,MID:ff:0"}
    file.save(Presets())
    assert file.listing().all_presets == BUILT_IN


def test_comments_and_lines_that_nobody_understands_stay(file):
    file.path.parent.mkdir()
    file.path.write_text(
        f"# mine\nold:{LIST}\n\nwhat is this\ngone:{LIST}\n\n[LBWE]\n# rules\nsoft:IN05:attn:1\n", "utf-8"
    )
    assert file.listing().problems[0].startswith("line 4: ")
    file.save(Presets({"old": "IN05:0.5", "new": LIST}, {"hard": ":attn:2"}))
    text = file.path.read_text("utf-8")
    assert text == f"# mine\nold:IN05:0.5\n\nwhat is this\nnew:{LIST}\n\n[lbwe]\n# rules\nhard::attn:2\n"


def test_a_file_that_another_program_changes_is_read_again(file):
    file.save(own(a=LIST))
    stat = file.path.stat()
    file.path.write_text(f"b:{LIST}\n", "utf-8")
    os.utime(file.path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**6))
    assert file.listing().own_presets == own(b=LIST)
    file.path.unlink()
    assert file.listing().own_presets == Presets()


def test_files_of_another_extension_are_read_and_never_written(tmp_path):
    lists, rules = tmp_path / "lbwpresets.txt", tmp_path / "elempresets.txt"
    lists.write_text(f"THEIRS:{LIST}\nOUTS:{LIST}\nodd line\n", "utf-8")
    rules.write_text("\ufeffLESS:IN05:attn:0.5\n\n", "utf-8")
    file = PresetFile(tmp_path / "mine.txt", lambda: [PresetSource(lists), PresetSource(rules, elements=True)])
    listing = file.listing()
    assert listing.all_presets.blocks["THEIRS"] == listing.all_presets.blocks["OUTS"] == LIST
    assert listing.all_presets.elements["LESS"] == "IN05:attn:0.5"
    assert listing.own_presets == Presets()
    assert [problem.split(":")[0] for problem in listing.problems] == ["lbwpresets.txt, line 3"]
    file.save(own(OUTS="IN05:0.5"))
    assert file.presets().blocks["OUTS"] == "IN05:0.5"
    assert "OUTS" in lists.read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", LIST),
        ("0.5", LIST),
        ("a:b", LIST),
        ("# a", LIST),
        ("two\u2028lines", LIST),
        ("a", "1,2"),
        ("a", ""),
        ("a", "1,2,3,4,5,6,7,8,9,10,11\n,12"),
    ],
)
def test_what_would_be_read_as_something_else_is_refused(file, name, text):
    with pytest.raises(AdapterError) as refusal:
        file.save(Presets({"good": LIST, name: text}))
    assert str(refusal.value).endswith(".")
    assert not file.path.exists()


def test_a_file_that_is_not_ours_to_destroy_is_left_alone(file):
    file.path.parent.mkdir()
    file.path.write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in file.listing().problems[0]
    with pytest.raises(AdapterError, match="UTF-8"):
        file.save(own(a=LIST))
    file.path.write_bytes(b"#" * (1 << 21))
    with pytest.raises(AdapterError, match="too large"):
        file.save(own(a=LIST))
    file.path.unlink()
    file.path.mkdir()
    assert "cannot be read" in file.listing().problems[0]


@given(st.dictionaries(NAMES, st.sampled_from([LIST, "IN05-OUT03:0.5,MID:0", "R," + LIST[2:]]), max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_what_is_taken_is_read_back(tmp_path_factory, blocks):
    file = PresetFile(tmp_path_factory.mktemp("presets") / "presets.txt")
    try:
        file.save(Presets(blocks))
    except AdapterError:
        assert not file.path.exists()
    else:
        assert file.listing().own_presets == Presets(blocks)


def test_many_at_once(file):
    def work(number: int) -> None:
        for turn in range(20):
            file.save(own(**{f"p{number}": LIST, f"q{turn}": LIST}))
            assert len(file.listing().own_presets.blocks) == 2

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(file.listing().own_presets.blocks) == 2
    assert [path.name for path in file.path.parent.iterdir()] == ["presets.txt"]
