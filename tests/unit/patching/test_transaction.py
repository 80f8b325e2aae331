"""A change is made wholly or not at all, and what goes back goes back in reverse, whatever else fails."""

from __future__ import annotations

import pytest

from lib_adapters.patching.transaction import Transaction


def made(change, done, *names, fails=()):
    def act(name):
        done.append(name)
        if name in fails:
            raise OSError(name)

    for name in names:
        change.on_rollback(lambda name=name: act(f"back {name}"))
        change.on_commit(lambda name=name: act(f"then {name}"))


def broken(done, error, names, fails=()):
    with Transaction() as change:
        made(change, done, *names, fails=fails)
        raise error


def test_what_is_left_comes_once_all_is_moved():
    done = []
    with Transaction() as change:
        made(change, done, "a", "b")
        assert done == []
    assert done == ["then a", "then b"]


def test_all_goes_back_in_reverse_for_any_exception():
    done = []
    with pytest.raises(KeyboardInterrupt):
        broken(done, KeyboardInterrupt(), "ab")
    assert done == ["back b", "back a"]


def test_one_that_cannot_go_back_does_not_keep_the_others():
    done = []
    with pytest.raises(OSError, match="back b") as raised:
        broken(done, ValueError("first"), "abc", fails=("back b", "back a"))
    assert done == ["back c", "back b", "back a"]
    assert isinstance(raised.value.__context__, ValueError)
