"""Our hooks on a model's modules: on exactly those that are meant, once, and nothing of them is left behind."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from lib_adapters.patching.hooks import HookSet, ModelHooks, hook_states
from lib_adapters.patching.transaction import Transaction

KINDS = ("run", "load", "save")


class Owner:
    """Notes the modules that are about to run or to be loaded."""

    def __init__(self):
        self.seen = []

    def before(self, module, *_):
        self.seen.append(module)


class Doubler:
    def before(self, module, given, named):
        return tuple(2 * one for one in given), {name: 2 * one for name, one in named.items()}


class Sum(nn.Module):
    def forward(self, x, *, y=0):
        return x + y


def use(kind, module):
    if kind == "run":
        module(torch.ones(1, 2))
    elif kind == "save":
        module.state_dict()
    else:
        module.load_state_dict({name: one.detach().clone() for name, one in module.named_parameters()})


def tables(module):
    calls = [*module._forward_pre_hooks, *module._forward_pre_hooks_with_kwargs]
    return [*calls, *module._load_state_dict_pre_hooks, *module._state_dict_pre_hooks]


@pytest.fixture
def three():
    return [nn.Linear(2, 2) for _ in range(3)]


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_called_once_however_often_it_was_put_on(kind, three):
    one, two, _ = three
    owner, theirs = Owner(), []
    one.register_forward_pre_hook(lambda *_: theirs.append(1))
    hooks = HookSet(kind, owner.before)
    hooks.install([one, two])
    hooks.install([two])
    assert (len(hooks), hooks.modules()) == (2, [one, two])
    for module in three:
        use(kind, module)
    assert owner.seen == [one, two]
    hooks.remove()
    hooks.remove()
    use(kind, one)
    assert (owner.seen, len(hooks), hooks.modules()) == ([one, two], 0, [])
    assert len(theirs) == (2 if kind == "run" else 0)  # somebody else's stays
    assert tables(two) == []


@pytest.mark.parametrize("kind", KINDS)
def test_it_leaves_all_but_those_that_are_kept(kind, three):
    owner = Owner()
    hooks = HookSet(kind, owner.before)
    hooks.install(three)
    hooks.remove(three[1:2])
    for module in three:
        use(kind, module)
    assert owner.seen == hooks.modules() == [three[1]]
    assert tables(three[0]) == tables(three[2]) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_hook_that_somebody_else_took_off_is_put_on_again(kind, three):
    owner, (module, *_) = Owner(), three
    hooks = HookSet(kind, owner.before)
    hooks.install([module])
    for table in (module._forward_pre_hooks, module._load_state_dict_pre_hooks, module._state_dict_pre_hooks):
        table.clear()
    module._forward_pre_hooks_with_kwargs.clear()
    assert len(hooks) == 0
    hooks.install([module])
    use(kind, module)
    assert owner.seen == [module]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fails", [False, True])
def test_a_move_is_made_wholly_or_not_at_all(kind, three, fails):
    """While it is made those that come and those that go both have it."""
    owner = Owner()
    hooks = HookSet(kind, owner.before)
    hooks.install(three[:2])

    def move():
        with Transaction() as change:
            hooks.replace(three[1:], change)
            assert hooks.modules() == three
            if fails:
                raise KeyboardInterrupt

    if fails:
        with pytest.raises(KeyboardInterrupt):
            move()
    else:
        move()
    left = three[:2] if fails else three[1:]
    assert hooks.modules() == left
    assert [bool(tables(module)) for module in three] == [module in left for module in three]


def test_what_it_returns_takes_the_place_of_the_arguments():
    doubler, module = Doubler(), Sum()
    hooks = HookSet("run", doubler.before)
    hooks.install([module])
    assert module(torch.tensor(1.0), y=torch.tensor(10.0)) == 22
    hooks.remove()
    assert module(torch.tensor(1.0), y=torch.tensor(10.0)) == 11


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_of_a_module_calls_nobody(kind, three):
    owner = Owner()
    HookSet(kind, owner.before).install(three)
    use(kind, copy.deepcopy(three[0]))
    assert owner.seen == []


@pytest.mark.parametrize("weak", [True, False])
def test_of_an_owner_that_is_gone_nothing_is_called(three, weak):
    """A function of nobody's stays, where that is asked for."""
    owner, seen = Owner(), []
    owner.seen, module = seen, three[0]
    hooks = HookSet("run", owner.before, weak=weak)
    hooks.install([module])
    del owner
    gc.collect()
    use("run", module)
    assert seen == ([] if weak else [module])


def test_modules_that_are_gone_are_none_of_ours(three):
    hooks = HookSet("run", Owner().before, weak=False)
    hooks.install(three)
    del three[0]
    gc.collect()
    assert (len(hooks), hooks.modules()) == (2, three)
    hooks.remove()
    assert not any(map(tables, three))


@pytest.mark.parametrize("fails", [False, True])
def test_all_guards_move_together(three, fails):
    runs, loads, saves = Owner(), Owner(), Owner()
    guards = ModelHooks(runs.before, loads.before, saves.before)
    with Transaction() as change:
        guards.update(three[:1], three[1:2], change)
    for module in three:
        use("run", module)
        use("load", module)
        use("save", module)
    assert (runs.seen, loads.seen, saves.seen) == (three[:1], three[1:2], three[1:2])
    try:
        with Transaction() as change:
            guards.update([], three[:1], change)
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    places = [(bool(one._forward_pre_hooks), bool(one._load_state_dict_pre_hooks)) for one in three]
    assert places == ([(True, False), (False, True)] if fails else [(False, True), (False, False)]) + [(False, False)]
    assert [bool(one._state_dict_pre_hooks) for one in three] == [place[1] for place in places]
    guards.remove()
    guards.remove()
    assert not any(map(tables, three))


class Kept:
    def __init__(self):
        self.copies = 0

    def on_copied(self):
        self.copies += 1


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_lives_as_long_as_a_hook_is_on_a_module(kind, three):
    """It is found there, told of copies, and is not in them."""
    hooks, kept = HookSet(kind, Owner().before, weak=False), Kept()
    ref = weakref.ref(kept)
    hooks.install(three[:2], kept)
    assert [hook_states(module) for module in three] == [[kept], [kept], []]
    assert hook_states(copy.deepcopy(three[0])) == []
    assert kept.copies == 1
    del kept
    hooks.remove(three[:1])
    assert ref() is not None
    hooks.remove()
    assert ref() is None
