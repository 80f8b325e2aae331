"""Drive the fake web UI through random jobs, switches and failures; check every weight of every model after each.

The reference is a fresh web UI that runs the same job with the same files and settings
(`tests/support/state_machines/tiny_webui.py`): images and weights must be equal to the bit. Between jobs a model has
these weights or the checkpoint's own; after a job without tags no model has anything of ours.

By default the sequences are the same each time. A long run with new ones: `STATES_SOAK=5000 python -m pytest
tests/robustness/test_webui_state_machine.py` (the number of steps; a failure prints the steps that lead to it).
"""

from __future__ import annotations

import gc
import itertools
import shutil
import weakref
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from torch import nn

from lib_adapters.patching import apply_mode
from tests.fake_webui import builtin_lora, extra_networks
from tests.robustness.test_session_state_machine import clearly
from tests.support.state_machines.machine_runner import run_machine
from tests.support.state_machines.random_jobs import INFOS, Work, broken, done, works
from tests.support.state_machines.tiny_webui import aside, furnish, host, tiny
from tests.support.state_machines.versioned_adapters import LETTERS
from tests.support.tiny_model_pair import differing, traces

STEPS = 500
LETTER = st.sampled_from(sorted(LETTERS))


class WebuiMachine(RuleBasedStateMachine):
    place: Path
    own: dict  # checkpoint -> its weights
    numbers = itertools.count()

    def __init__(self):
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.folder = self.place / str(next(self.numbers))
        self.host = host(self.folder, self.patch)
        self.shelf = furnish(self.host)
        self.changed = weakref.WeakKeyDictionary()  # what is not a model's own in its weights
        self.theirs = weakref.WeakSet()  # models with a delta of the built-in, which takes it out when they run

    def teardown(self):
        self.host.call("script_unloaded", backwards=True)
        builtin_lora.loaded_networks.clear()
        self.patch.undo()
        shutil.rmtree(self.folder)

    @property
    def models(self):
        return self.host.sd_models.model_data.loaded_sd_models

    @property
    def model(self):
        return self.host.sd_models.model_data.sd_model

    def left_by_us(self):
        """Ours is on no model any more."""
        for model in list(self.changed):
            if model not in self.theirs:
                del self.changed[model]

    @rule(work=works)
    def draw(self, work):
        with aside(self.folder / "aside", self.host) as fresh:
            wanted, models = done(fresh, work, self.own), len(fresh.sd_models.model_data.loaded_sd_models)
            assert not fresh.reports
        shutil.rmtree(self.folder / "aside")
        found = done(self.host, work, self.own)
        assert found.info == wanted.info
        assert len(self.models) == models
        assert len(found.images) == len(wanted.images)
        for image, right in zip(found.images, wanted.images, strict=True):
            assert image.equal(right), work
        self.left_by_us()
        self.theirs.discard(self.model)
        self.changed[self.model] = wanted.changed
        if "theirs" in str(work) and not self.host.shared.opts.lycoris_handle_lora:
            self.theirs.add(self.model)

    @rule(work=broken)
    def mishap(self, work):
        """The user interrupts, a run raises, or a script draws something else in between."""
        self.draw(work)

    @rule()
    def nothing(self):
        """A job without tags: as if we had never been there."""
        self.default("None")
        self.draw(Work(("3 4",)))
        assert not self.changed[self.model]
        assert not traces(self.model)
        assert not self.host.reports
        assert not extra_networks.displayed

    @rule(info=st.sampled_from(INFOS))
    def switch(self, info):
        """In the same tensors, to a new object, or to one that is in memory."""
        there, before = info in [one.sd_checkpoint_info for one in self.models], self.model
        self.host.loader.chosen = info
        self.host.loader.reload_model_weights()
        if there:
            return
        if self.model is before:
            self.changed.pop(before, None)
            self.theirs.discard(before)
        else:
            self.left_by_us()

    @initialize(limit=st.integers(1, 3))
    def memory_at_the_start(self, limit):
        self.memory_for(limit)

    @rule(work=works, info=st.sampled_from(INFOS))
    def draw_and_switch(self, work, info):
        """What a job left on one model goes when another takes its place."""
        self.draw(work)
        self.switch(info)

    @rule(limit=st.integers(1, 3))
    def memory_for(self, limit):
        """How many checkpoints are kept; those that are too many are let go."""
        self.host.loader.limit = limit
        for model in self.models[limit:]:
            self.models.remove(model)
            model.to("meta")

    @rule(anew=st.booleans())
    def move(self, anew):
        """To the CPU and back."""
        for module in self.model.modules():
            for leaf, parameter in module._parameters.items():
                if parameter is not None and anew:
                    module._parameters[leaf] = nn.Parameter(parameter.data.clone(), requires_grad=False)
                elif parameter is not None:
                    parameter.data = parameter.data.clone()

    @rule()
    def another_vae(self):
        """The text side gets new wrappers."""
        self.model.rehijack()

    @rule()
    def reload_ui(self):
        self.host.reload_ui()
        self.left_by_us()
        assert not any(traces(model) for model in self.models)

    @rule(name=st.sampled_from(("lora", "hypernet")), on=st.booleans())
    def handle(self, name, on):
        setattr(self.host.shared.opts, f"lycoris_handle_{name}", on)

    @rule(name=st.sampled_from(("parts", "negative")), on=st.booleans())
    def setting(self, name, on):
        setattr(self.host.shared.opts, f"lycoris_{name}", on)

    @rule(name=st.sampled_from(("None", "None", "a", "d")))
    def default(self, name):
        self.host.shared.opts.lycoris_default = name

    @rule(letter=LETTER, version=st.integers(0, 2))
    def put(self, letter, version):
        self.shelf.put(letter, version)

    @rule(letter=LETTER, how=st.sampled_from(("gone", "cut", "web page")))
    def spoil(self, letter, how):
        if self.shelf.path(letter).exists():
            self.shelf.spoil(letter, how)

    @rule(letter=LETTER, other=LETTER)
    def rename(self, letter, other):
        """Over another one, as users sort their files."""
        if self.shelf.path(letter).exists():
            self.shelf.path(letter).replace(self.shelf.path(other))

    @rule()
    def collect(self):
        gc.collect()

    @invariant()
    def holds(self):
        for model in self.models:
            own = self.own[model.sd_checkpoint_info]
            wrong = differing(model, {**own, **self.changed.get(model, {})})
            assert not sorted(wrong), model.sd_checkpoint_info


@pytest.mark.slow
def test_the_webui(tried, tmp_path, monkeypatch):
    tiny(monkeypatch)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "nothing"))
    monkeypatch.setattr(apply_mode, "estimated_costs", clearly)
    monkeypatch.setattr(apply_mode, "_times", lambda *_: (4, 4))
    for name in ("merge_seconds", "bypass_seconds"):
        monkeypatch.setattr(apply_mode, name, lambda *_: 1e-3)
    own = {info: info.made().state_dict() for info in INFOS}
    run_machine(WebuiMachine, tried, "states of the web UI", STEPS, place=tmp_path, own=own)
