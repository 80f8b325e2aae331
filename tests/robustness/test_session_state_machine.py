"""Drive a Session through thousands of random steps; compare every weight to the bit after each.

The reference is a new Session on a model of its own (`tests/support/state_machines/reference_session.py`), which is
itself compared with W + Σ s·ΔW written out for weights, images and texts (`.../versioned_adapters.py`).

By default the sequences are the same each time. A long run with new ones: `STATES_SOAK=20000 python -m pytest
tests/robustness/test_session_state_machine.py` (the number of steps; a failure prints the steps that lead to it).
"""

from __future__ import annotations

import contextlib
import copy
import gc

import pytest
import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import nn

from lib_adapters import open_adapter
from lib_adapters.patching import apply_mode
from lib_adapters.prompt.schedule import SamplingStep
from tests.support.state_machines.injected_failure import Fault, trapped
from tests.support.state_machines.machine_runner import run_machine
from tests.support.state_machines.random_requests import START, Want, wants
from tests.support.state_machines.reference_session import Fresh
from tests.support.state_machines.tracked_model import Kept, place
from tests.support.state_machines.versioned_adapters import IN_UNET, LETTERS, Shelf
from tests.support.tiny_model_pair import Pair, another, differing

STEPS = 900
MODES = st.sampled_from(("merged", "merged", "live"))
LETTER = st.sampled_from(sorted(LETTERS))
ROWS = st.sampled_from((None, (0, 1, 2), (2, 0), (1, 1), (0,)))
AROUND = st.sampled_from((contextlib.nullcontext, torch.no_grad, torch.inference_mode))
PLACES = [f"unet.{name}.weight" for name in IN_UNET]
WITH_BIAS = [name for name in PLACES if not name.endswith(("to_q.weight", "to_k.weight"))]


class SessionMachine(RuleBasedStateMachine):
    shelf: Shelf
    fresh: Fresh

    def __init__(self):
        super().__init__()
        self.contents = {letter: self.shelf.put(letter, 0) for letter in LETTERS}
        self.adapters = {letter: open_adapter(self.shelf.path(letter)) for letter in LETTERS}

    @initialize(mode=MODES)
    def start(self, mode):
        self.all = [Kept("usual", mode)]

    @property
    def kept(self) -> Kept:
        return self.all[0]

    def asked(self, chosen):
        """Requests as a host makes them, and what they stand for."""
        requests = [want.request(self.adapters[want.file]) for want in chosen]
        return requests, [want.of(self.contents[want.file]) for want in chosen]

    @rule(chosen=st.lists(wants, max_size=3), steps=st.integers(1, 4), around=AROUND)
    def activate(self, chosen, steps, around):
        requests, contents = self.asked(chosen)
        with around():
            report = self.kept.session.activate(requests, SamplingStep(0, steps))
        assert not [one.error for one in report.adapters if one.error]
        self.kept.wanted(contents, SamplingStep(0, steps))

    @rule()
    def deactivate(self):
        self.kept.session.deactivate()
        self.kept.idle()

    @rule(first=LETTER, second=LETTER, around=AROUND)
    def one_after_the_other(self, first, second, around):
        """What the first gives to a layer, such as a bias, goes when only the second is wanted."""
        for letter in (first, second):
            self.activate([Want(letter)], 2, around)
            self.kept.check(self.fresh)

    @rule(first=LETTER, second=LETTER, around=AROUND)
    def in_a_window_beside(self, first, second, around):
        self.activate([Want(first, window=(0, 1), mode="merged"), Want(second)], 2, around)
        self.draw(2, None, False, around)

    @rule(steps=st.integers(1, 3), rows=ROWS, cut=st.booleans(), around=AROUND)
    def draw(self, steps, rows, cut, around):
        with around():
            found = [self.kept.draw(SamplingStep(step, steps), rows, cut) for step in range(steps)]
        wanted = self.fresh.pictures(self.kept.now, steps, cut)
        assert all(one.equal(other) for one, other in zip(found, wanted, strict=True))

    @rule(steps=st.integers(1, 3), rows=ROWS)
    def interrupt(self, steps, rows):
        def stop(*_):
            raise KeyboardInterrupt

        handle = self.kept.model.unet.output_blocks[0].register_forward_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            self.kept.draw(SamplingStep(0, steps), rows, False)
        handle.remove()
        self.kept.stale = ()

    @rule(voice=st.sampled_from((None, 0, 1, 2)))
    def read(self, voice):
        assert self.kept.read(voice).equal(self.fresh.text(self.kept.now))

    @rule(seed=st.integers(0, 3), assign=st.booleans())
    def load(self, seed, assign):
        weights = another(self.kept.weights, seed)
        self.kept.model.load_state_dict({name: tensor.clone() for name, tensor in weights.items()}, assign=assign)
        self.kept.owns(weights)

    @rule(seed=st.integers(0, 3), start=st.sampled_from(("unet.middle_block.", "te.", "unet.input_blocks.0.")))
    def load_some(self, seed, start):
        """A file without the other layers: they stay as they are, without an adapter."""
        some = {name: tensor for name, tensor in self.kept.weights.items() if name.startswith(start)}
        weights = another(some, seed)
        self.kept.model.load_state_dict(weights, strict=False)
        self.kept.owns(weights)

    @rule(seed=st.integers(0, 3))
    def load_a_part(self, seed):
        start = "unet.middle_block."
        some = {name: tensor for name, tensor in self.kept.weights.items() if name.startswith(start)}
        weights = another(some, seed)
        self.kept.model.unet.middle_block.load_state_dict({n.removeprefix(start): t for n, t in weights.items()})
        self.kept.owns(weights, start)

    @rule(name=st.sampled_from(PLACES), seed=st.integers(0, 3))
    def exchange(self, name, seed):
        """Somebody puts another Parameter there."""
        (tensor,) = another({name: self.kept.weights[name]}, seed).values()
        module, leaf = place(self.kept.model, name)
        setattr(module, leaf, nn.Parameter(tensor.clone(), requires_grad=False))
        self.kept.owns({name: tensor}, name)

    @rule(anew=st.booleans())
    def move(self, anew):
        """To another device and back, as hosts short of memory do: other memory, perhaps other Parameters."""
        for name, parameter in list(self.kept.model.named_parameters()):
            module, leaf = place(self.kept.model, name)
            if anew:
                module._parameters[leaf] = nn.Parameter(parameter.data.clone(), requires_grad=False)
            else:
                parameter.data = parameter.data.clone()

    @rule(name=st.sampled_from(WITH_BIAS))
    def rewrap(self, name):
        """Other code puts a layer of its own there, with the very Parameters."""
        path, _, leaf = name.removesuffix(".weight").rpartition(".")
        parent = self.kept.model.get_submodule(path)
        old = parent.get_submodule(leaf)
        if isinstance(old, nn.Linear):
            new = nn.Linear(old.in_features, old.out_features)
        else:
            new = nn.Conv2d(old.in_channels, old.out_channels, old.kernel_size, padding=old.padding)
        new.weight, new.bias = old.weight, old.bias
        parent.register_module(leaf, new.eval())
        del old
        assert self.kept.session.verify()  # looks at the model: the Parameters get their original values back
        self.kept.stale += (name.removesuffix("weight"),)

    @rule(name=st.sampled_from(PLACES))
    def keep_twice(self, name):
        """Other code copies a layer into the model while adapters are on it."""
        module, leaf = place(self.kept.model, name)
        module.again = copy.deepcopy(module)
        self.deactivate()
        assert module.again._parameters[leaf].equal(self.kept.weights[name])
        del module.again

    @rule()
    def copy(self):
        """A copy has its weights to itself, and nothing of ours does anything on it."""
        before, twin = self.kept.model.state_dict(), copy.deepcopy(self.kept.model)
        twin.read()
        assert not differing(twin, before)

    @rule(kind=st.sampled_from(("usual", "narrow")), mode=MODES)
    @precondition(lambda self: len(self.all) < 2)
    def another_model(self, kind, mode):
        self.all.insert(0, Kept(kind, mode))

    @rule()
    def back(self):
        """To the model that is in memory as well, with whatever is on it."""
        self.all.reverse()

    @rule(by=st.sampled_from(("meta", "gc", "nobody")))
    @precondition(lambda self: len(self.all) > 1)
    def throw_away(self, by):
        self.all.pop().thrown_away(by)

    @rule(mode=MODES)
    def another_session(self, mode):
        self.kept.session.deactivate()
        self.kept.begin(mode)

    @rule(mode=MODES, chosen=st.lists(wants, min_size=1, max_size=3), dropped=st.booleans())
    def take_over(self, mode, chosen, dropped):
        """A second session while the first is active; the first, if it still lives, is not in its way."""
        first = self.kept.session
        self.kept.begin(mode)
        self.activate(chosen, 2, contextlib.nullcontext)
        if not dropped:
            first.deactivate()
            assert first.verify()

    @rule(mode=MODES)
    def drop_while_active(self, mode):
        """A new session gives back what one put on that was thrown away."""
        self.kept.begin(mode)
        self.kept.session.deactivate()

    @rule(letter=LETTER, version=st.integers(0, 2))
    def put(self, letter, version):
        """Another file of this name; what is active stays so until it is asked for again."""
        self.contents[letter] = self.shelf.put(letter, version)
        self.adapters[letter] = open_adapter(self.shelf.path(letter))

    @rule(letter=LETTER, how=st.sampled_from(("gone", "cut", "web page")), chosen=st.lists(wants, max_size=2))
    def spoil(self, letter, how, chosen):
        """A file goes bad after it was opened: what needs it says so, or had it in memory; the others go on."""
        self.shelf.spoil(letter, how)
        requests, contents = self.asked(chosen)
        report = self.kept.session.activate(requests, START)
        assert all(want.file == letter for want, one in zip(chosen, report.adapters, strict=True) if one.error)
        sound = [want for want, one in zip(contents, report.adapters, strict=True) if not one.error]
        self.kept.wanted(sound, START)
        self.put(letter, 0)

    @rule(chosen=st.lists(wants, max_size=3), point=st.integers(0, 4), at=st.integers(1, 30))
    def fault(self, chosen, point, at):
        requests, contents = self.asked(chosen)
        try:
            with trapped(point, at):
                self.kept.session.activate(requests, START)
        except Fault:
            return
        self.kept.wanted(contents, START)

    @rule(point=st.integers(0, 4), at=st.integers(1, 30), rows=ROWS)
    def fault_while_drawing(self, point, at, rows):
        """Nothing is better than half."""
        if self.kept.stale:
            return
        try:
            with trapped(point, at):
                for step in range(3):
                    self.kept.draw(SamplingStep(step, 3), rows, False)
        except Fault:
            self.kept.voice = None
            self.kept.idle()

    @rule()
    def collect(self):
        gc.collect()

    @invariant()
    def holds(self):
        for kept in getattr(self, "all", ()):
            kept.check(self.fresh)


def clearly(target, run, _):
    """Merging anew is quicker in large pictures, and for half of the layers in small ones."""
    parameter = target.ref.parameter()
    merges = run.height == 64 or parameter is None or parameter.numel() // 32 % 2
    return (1, 10**9) if merges else (10**9, 1)


@pytest.mark.slow
def test_a_session(tried, tmp_path, monkeypatch):
    monkeypatch.setattr(apply_mode, "estimated_costs", clearly)
    monkeypatch.setattr(apply_mode, "_times", lambda *_: (4, 4))
    for name in ("merge_seconds", "bypass_seconds"):
        monkeypatch.setattr(apply_mode, name, lambda *_: 1e-3)
    shelf = Shelf(tmp_path / "files", tmp_path / "kept", Pair())
    run_machine(SessionMachine, tried, "states of a session", STEPS, shelf=shelf, fresh=Fresh(shelf))
