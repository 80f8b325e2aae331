"""A thousand switches over everything that can be active, and a hundred of the checkpoint: nothing grows.

Tensors, hooks, threads and open files are counted and must be exactly what they were one round after the start.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib_adapters import Session
from lib_adapters.conditioning.aesthetic_gradients import AestheticOptimizer, TextForward, optimization_target
from lib_adapters.conditioning.hypernetwork_patcher import (
    HypernetworkPatcher,
    HypernetworkRequest,
    attention_projections,
)
from lib_adapters.prompt.aesthetic_tag import AestheticOptions
from lib_adapters.prompt.schedule import SamplingStep
from tests.fake_webui.sd_models import FIRST
from tests.support.resource_usage import MARGIN, Footprint, resident
from tests.support.state_machines.random_jobs import ELSE, OTHER
from tests.support.state_machines.random_requests import Want
from tests.support.state_machines.tiny_webui import furnish, host, tiny
from tests.support.state_machines.versioned_adapters import LETTERS, Shelf
from tests.support.tiny_model_pair import Pair, differing, noise, weights_of
from tests.unit.conditioning.test_hypernetworks import module, save

SESSION, HOST, CHECKPOINTS = 600, 400, 100
LED = "3 <aesthetic:glow:0.8:steps=2:lr=0.001>"
JOBS = (
    *(f"3 <lyco:{letter}:0.8>" for letter in LETTERS),
    "3 <lyco:a:1:unet=0@0,1@1>",
    "3 <lyco:g:1:dyn=timestep> AND 4 <lyco:d:0.5>",
    "3 <lyco:e:1:1@0,0@1:mode=live>",
    "3 <hypernet:glow:0.7>",
    LED,
    "3 <lyco:words:1>",
    "3 <lyco:nobody:1>",
    ["3 <lyco:b:1>", "4 <lyco:f:1>"],
    "3",
)


class Switches:
    """Everything that can be active on a model, one after the other."""

    def __init__(self, folder: Path):
        self.model = Pair()
        self.own = weights_of(self.model)
        shelf = Shelf(folder / "files", folder / "kept", self.model)
        self.opened = {letter: shelf.aside(shelf.put(letter, 0)) for letter in LETTERS}
        self.sessions = [Session(self.model.unet, [self.model.te], mode=mode) for mode in ("merged", "live")]
        self.nets = HypernetworkPatcher(self.model.unet)
        widths = {one.width for one in attention_projections(self.model.unet)}
        nets = {width: tuple(module(width, [1, 2, 1], "relu") for _ in "kv") for width in widths}
        self.net = save(folder / "net.pt", nets, activation_func="relu", name="net")
        self.steerer = AestheticOptimizer(max_entries=4)
        merged, live = self.sessions
        self.all = [
            *((lambda letter=letter: self.put(merged, Want(letter))) for letter in LETTERS),
            *((lambda letter=letter: self.put(live, Want(letter))) for letter in LETTERS),
            *((lambda letter=letter: self.draw(Want(letter, unet=(0.0, 1.0)))) for letter in "aceg"),
            *((lambda letter=letter: self.draw(Want(letter, rows=frozenset({1})))) for letter in "adfg"),
            lambda: self.put(merged, *(Want(letter, unet=0.5) for letter in LETTERS)),
            self.steer,
            self.lead,
        ]

    def put(self, session: Session, *wants: Want) -> None:
        for other in self.sessions:
            if other is not session:
                other.deactivate()
        session.activate([want.request(self.opened[want.file]) for want in wants], SamplingStep(0, 2))

    def draw(self, want: Want) -> None:
        self.put(self.sessions[0], want)
        for step in range(2):
            self.sessions[0].set_step(SamplingStep(step, 2), (0, 1))
            self.model.draw(noise(2))

    def steer(self) -> None:
        self.off()
        self.nets.activate([HypernetworkRequest(self.net, 0.5)])
        self.model.draw(noise(1))

    def lead(self) -> None:
        """Another prompt each time: answers are remembered, but not for ever."""
        self.off()
        tower, options = self.model.te, AestheticOptions(steps=1, lr=1e-3)
        tokens = torch.randint(1, 90, (1, 8))

        def states():
            return (tower(input_ids=tokens).last_hidden_state,)

        with torch.no_grad():
            seen = tuple(one.clone() for one in states())
        target = optimization_target(torch.ones(1, 24), None, options)
        self.steerer.optimize(tower, TextForward(lambda: states()[0].mean(1), states, seen), target, options)

    def off(self) -> None:
        self.nets.deactivate()
        for session in self.sessions:
            session.deactivate()


@pytest.mark.slow
def test_switches_of_a_session(tried, tmp_path):
    switches, count = Switches(tmp_path), tried("leaks", "switches")
    before = Footprint.now([switches.model])
    rounds = SESSION // len(switches.all) + 1
    marks, memory = [], []
    for number in range(rounds):
        for switch in switches.all:
            switch()
            switches.nets.deactivate()
            count.add()
        if number in (rounds // 5, rounds - 1):
            switches.off()
            marks.append(Footprint.now([switches.model]))
            memory.append(resident())
    assert marks[0] == marks[1]
    assert marks[1].traces == before.traces == 0
    assert (marks[1].threads, marks[1].files) == (before.threads, before.files)
    assert memory[1] - memory[0] < MARGIN
    assert not differing(switches.model, switches.own)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The double with tiny models and a file of everything; one has a word inside."""
    tiny(monkeypatch)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "nothing"))
    webui = host(tmp_path / "models", monkeypatch)
    shelf = furnish(webui)
    tensors = load_file(shelf.path("a")) | {"bundle_emb.glow.string_to_param.*": torch.ones(2, 24)}
    save_file(tensors, shelf.folder / "words.safetensors")
    yield webui
    webui.call("script_unloaded", backwards=True)


@pytest.mark.slow
def test_switches_of_the_webui(tried, small):
    count = tried("leaks", "switches")
    before = Footprint.now([small.model])
    rounds = HOST // len(JOBS) + 1
    marks, memory = [], []
    for number in range(rounds):
        for prompt in JOBS:
            small.draw(prompt, "5", steps=2, batch_size=2 if isinstance(prompt, list) else 1)
            count.add()
        if number in (rounds // 5, rounds - 1):
            marks.append(Footprint.now([small.model]))
            memory.append(resident())
    assert marks[0] == marks[1]
    assert marks[1].traces == before.traces == 0
    assert memory[1] - memory[0] < MARGIN
    assert not small.reports
    small.reload_ui()
    small.call("script_unloaded", backwards=True)  # the index of cards is closed
    after = Footprint.now([small.model])
    assert (after.threads, after.files) == (before.threads, before.files)


@pytest.mark.slow
def test_switches_of_the_checkpoint(tried, small):
    """In the same tensors, to a new object, and to one that is in memory: each with adapters on."""
    count, marks, memory = tried("leaks", "checkpoint switches"), [], []
    order = [(1, OTHER), (1, ELSE), (1, FIRST), (2, OTHER), (2, FIRST)]  # how many are kept, and which comes
    for info in (OTHER, ELSE, FIRST):
        small.loader.chosen = info
        small.draw(LED, "5", steps=2)  # what it came to is remembered for each of them
    prompts = itertools.cycle(JOBS[:-2])
    rounds = CHECKPOINTS // len(order)
    alike = (rounds - 1 - len(JOBS[:-2]), rounds - 1)  # rounds with the same prompts
    for number in range(rounds):
        for kept, info in order:
            models = small.sd_models.model_data.loaded_sd_models
            for extra in models[kept:]:
                models.remove(extra)
                extra.to("meta")
            del models[kept:]
            small.draw(next(prompts), "5", steps=2)
            small.loader.limit, small.loader.chosen = kept, info
            small.draw(JOBS[number % 8], "5", steps=2)
            count.add()
        small.draw("3", "5", steps=2)
        if number in alike:
            marks.append(Footprint.now(models))
            memory.append(resident())
    assert marks[0] == marks[1]
    assert marks[1].traces == 0
    assert memory[1] - memory[0] < MARGIN
    assert not small.reports
